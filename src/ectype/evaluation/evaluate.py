"""Evaluation of a model on held-out images: every figure that the model can have, with its baselines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ectype.config.recipe import Recipe
from ectype.config.schema import Augment
from ectype.core.errors import DataError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.data.loader import Loader, evenly_spaced
from ectype.evaluation.baselines import Baselines
from ectype.evaluation.code_figures import code_figures
from ectype.evaluation.features import Extractor
from ectype.evaluation.figures import Evaluation, Figure
from ectype.evaluation.generation import MAX_SAMPLES, evaluate_samples
from ectype.evaluation.inputs import EvaluationInputs
from ectype.evaluation.likelihood_figures import bound_figures, importance_weighted_figures
from ectype.evaluation.linear_filter import LinearFilter, fit_linear_filter
from ectype.evaluation.metrics.codes import HasPosterior
from ectype.evaluation.metrics.image_errors import ImageErrors, image_errors
from ectype.evaluation.metrics.likelihood import DEFAULT_BUDGET, affordable_images, bound_terms, likelihood_of
from ectype.evaluation.metrics.output_variance import OutputVariance, detail_energy
from ectype.evaluation.reconstruction_figures import denoising_figures, reconstruction_figures
from ectype.evaluation.registered import failed_remarks, output_figures, output_values
from ectype.evaluation.training_progress import TrainingProgress, shortfall
from ectype.evaluation.translation import evaluate_translation, translation_figures
from ectype.evaluation.verdict import decide_verdict
from ectype.models.base import Encodes, HasLogLikelihood, Reconstructs, Samples, evaluating, is_trained_to_encode
from ectype.models.corruptions import CorruptionConfig
from ectype.models.translator import Translator

__all__ = ["corruption_of", "density_kind", "evaluate"]

MAX_FILTERED_PIXELS = 2**20
"""Pixels of training images that a linear filter against a corruption is fitted on."""
NUM_CASES = 5
"""Images with the smallest, a middle and the largest error that are kept for a report."""

PerImage = dict[str, Tensor]
"""Key → one value for each test image [n]."""


def corruption_of(model: nn.Module) -> CorruptionConfig | None:
    """Return the corruption that a model was trained to undo; None if there is none."""
    found = getattr(model, "corruption", None)
    return found if isinstance(found, CorruptionConfig) and found.active else None


def density_kind(model: nn.Module) -> str:
    """Return the kind of density over images that a model has: explicit bound, implicit, or none."""
    if isinstance(model, HasLogLikelihood):
        return "explicit bound"
    return "implicit" if isinstance(model, Samples) and not is_trained_to_encode(model) else "none"


def evaluate(
    model: nn.Module,
    train: Loader,
    test: Loader,
    *,
    recipe: Recipe,
    device: torch.device,
    likelihood_samples: int | None = None,
    max_images: int | None = None,
    extractors: Sequence[Extractor] = (),
    training: TrainingProgress | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate a model on test images, which it must not have been trained or selected on.

    Args:
        model: A model on `device`, with `info` of the images that it was built for.
        train: Training images without augmentation; baselines and probes are fitted on them.
        test: Held-out images.
        recipe: Recipe of the run.
        device: Where to compute.
        likelihood_samples: Samples per image of the importance-weighted bound, which is then computed on all images.
            None for 64 samples on at most 1,000 images, and on fewer or none where a network is large; 0 for no bound.
        max_images: Maximum number of test images, spread evenly, and of samples that are generated; None for all images
            and as many samples as are useful.
        extractors: Feature extractors by which the samples of a model that samples are compared. Without any, samples
            are not evaluated.
        training: How the model was trained, which decides whether the verdict on its samples is that it was trained too
            little. None if that is unknown.
        progress: Called with a description of what is measured next.

    Raises:
        ValueError: There are no test images, or training images are augmented.
    """
    if len(test) == 0:
        raise ValueError("no test images: raise data.split.test.")
    if train.augment != Augment():
        raise ValueError("evaluation needs training images without augmentation: build the loader with training=False.")
    inputs = EvaluationInputs.of(model, train, test, seed=recipe.train.seed, device=device, max_images=max_images)
    with evaluating(model):
        max_samples = MAX_SAMPLES if max_images is None else min(max_images, MAX_SAMPLES)
        return _Evaluator(inputs, recipe, likelihood_samples, extractors, training, progress, max_samples).run()


class _Evaluator:
    """One evaluation: a pass over training images, a pass over test images, then the figures."""

    def __init__(
        self,
        inputs: EvaluationInputs,
        recipe: Recipe,
        likelihood_samples: int | None,
        extractors: Sequence[Extractor],
        training: TrainingProgress | None,
        progress: Callable[[str], None] | None,
        max_samples: int,
    ) -> None:
        self.max_samples = max_samples
        self.inputs, self.model, self.extractors, self.training = inputs, inputs.model, extractors, training
        self.likelihood_samples = likelihood_samples
        binarize = recipe.data.binarise
        self.binarized = "" if binarize == "none" else f"; pixels made black or white: {binarize}"
        self.progress = progress or (lambda what: None)
        self.figures: list[Figure] = []
        self.remarks: list[str] = []
        self.series: dict[str, list[float]] = {}
        self.cases: dict[str, list[int]] = {}
        self.baselines: Baselines | None = None
        self.filter: LinearFilter | None = None
        self.variance = OutputVariance()
        self.kl: Tensor | None = None
        self.kl_sum: Tensor | None = None
        self.verdict, self.verdict_evidence = "", ""

    def run(self) -> Evaluation:
        model, inputs = self.model, self.inputs
        batch, _ = next(inputs.batches(inputs.test, 1))
        code_elements = model.encode(batch.image[:1]).numel() if isinstance(model, Encodes) else None
        self.progress(f"{inputs.max_images:,} test images and their baselines")
        if isinstance(model, Translator):
            self._translation(model)
        else:
            self._own_images(code_elements)
        if isinstance(model, HasLogLikelihood):
            self._importance_weighted_bound(model)
        if isinstance(model, Encodes) and code_elements is not None:
            self._codes(model, code_elements)
        if isinstance(model, Samples) and self.extractors:
            self._samples()
        return Evaluation(
            density=density_kind(model),
            parameters=sum(p.numel() for p in model.parameters()),
            image_elements=inputs.info.num_elements,
            code_elements=code_elements,
            train_images=len(inputs.train),
            test_images=inputs.max_images,
            seed=inputs.seed,
            figures=self.figures,
            series=self.series,
            cases=self.cases,
            remarks=self.remarks,
            verdict=self.verdict,
            verdict_evidence=self.verdict_evidence,
        )

    # ── Outputs for test images ──────────────────────────────────────────────────────────────────────────────────────

    def _own_images(self, code_elements: int | None) -> None:
        """Measure reconstructions, restored images and the bound of test images."""
        inputs, corruption, likelihood = self.inputs, corruption_of(self.model), likelihood_of(self.model)
        if isinstance(self.model, Reconstructs):
            self.baselines = Baselines(inputs.train, inputs.info, inputs.batch_size, inputs.context, code_elements)
            self.remarks += [self.baselines.remark] if self.baselines.remark else []
            if corruption is not None:
                n = max(1, MAX_FILTERED_PIXELS // math.prod(inputs.info.size))
                batches = inputs.batches(inputs.train, min(n, len(inputs.train)))
                self.filter = fit_linear_filter((corruption.apply(b.image, at), b.image) for b, at in batches)
        values = self._test_values()
        self.kl = values.get("kl")
        if self.baselines is not None:
            size = inputs.info.size
            self.figures += reconstruction_figures(values, self.baselines, self.variance, size, code_elements)
            self._registered_metrics(values, "reconstruction")
            self._find_cases(values["mse"])
        if "restored/psnr" in values and corruption is not None:
            self.figures += denoising_figures(values, corruption)
        if "loss" in values and likelihood is not None:
            self.figures += bound_figures(likelihood, values, inputs.info.num_elements, self.binarized)

    def _test_values(self) -> PerImage:
        """Return the values of every test image, in one pass."""
        kept: dict[str, list[Tensor]] = defaultdict(list)
        for batch, context in self.inputs.batches(self.inputs.test, self.inputs.max_images):
            for key, values in self._batch_values(batch, context).items():
                kept[key].append(values)
        return {key: torch.cat(parts) for key, parts in kept.items()}

    def _batch_values(self, batch: Batch, context: StepContext) -> PerImage:
        image, values = batch.image, {}
        if isinstance(self.model, Reconstructs) and self.baselines is not None:
            output = self.model.reconstruct(image)
            values |= {**image_errors(output, image)._asdict(), **self.baselines.errors(image)}
            values |= {"fine_detail": detail_energy(output), "image/fine_detail": detail_energy(image)}
            values |= output_values(image, output)
            self.variance.update(output, image)
            if (corruption := corruption_of(self.model)) is not None and self.filter is not None:
                noisy = corruption.apply(image, context)
                values |= _prefixed("corrupted_input", image_errors(noisy, image))
                values |= _prefixed("linear_filter", image_errors(self.filter.apply(noisy), image))
                values |= _prefixed("restored", image_errors(self.model.reconstruct(noisy), image))
        if isinstance(self.model, HasPosterior) and likelihood_of(self.model) is not None:
            terms = bound_terms(self.model, image, context)
            values |= {"loss": terms.loss, "kl": terms.kl.sum(1), "negative_elbo": terms.negative_elbo}
            so_far = self.kl_sum if self.kl_sum is not None else torch.zeros(terms.kl.shape[1], dtype=torch.float64)
            self.kl_sum = so_far + terms.kl.double().sum(0)
        return values

    def _translation(self, model: Translator) -> None:
        values = evaluate_translation(model, self.inputs.test, self.inputs.seed, self.inputs.max_images)
        self.figures += translation_figures(model, values)
        self._registered_metrics(values, "masks" if "counts" in values else "pictures")
        self._find_cases(values["error"])
        if "counts" in values:
            self.series["confusion"] = values["counts"].sum(0).flatten().tolist()

    def _registered_metrics(self, values: PerImage, group: str) -> None:
        self.figures += output_figures(values, group)
        self.remarks += failed_remarks(values)

    def _find_cases(self, error: Tensor) -> None:
        """Keep the indices in the test split of the best, middle and worst images."""
        places = evenly_spaced(len(self.inputs.test), self.inputs.max_images)
        order, n = places[error.argsort()].tolist(), min(NUM_CASES, len(error))
        middle = (len(order) - n) // 2
        self.cases = {"best": order[:n], "median": order[middle : middle + n], "worst": order[-n:][::-1]}

    # ── Likelihood, codes and samples ────────────────────────────────────────────────────────────────────────────────

    def _importance_weighted_bound(self, model: HasLogLikelihood) -> None:
        n, samples = self.inputs.max_images, self.likelihood_samples
        if samples == 0:
            self.remarks.append("Likelihood not bounded: this evaluation was to be quick.")
            return
        if samples is None:
            samples = DEFAULT_BUDGET.samples
            n = min(n, affordable_images(self.model, samples))
        if n < min(self.inputs.max_images, DEFAULT_BUDGET.min_images):
            why = f"{samples} decodings of each image would take too long here"
            self.remarks.append(f"Likelihood not bounded: {why}; --likelihood {samples} computes it anyway.")
            return
        self.progress(f"the likelihood of {n:,} images, with {samples:,} samples each")
        self.figures += importance_weighted_figures(self.inputs, model, n, samples, self.binarized)

    def _codes(self, model: Encodes, code_elements: int) -> None:
        self.progress("codes")
        mean_kl = None if self.kl_sum is None else self.kl_sum / self.inputs.max_images
        found = code_figures(self.inputs, model, code_elements, kl=self.kl, kl_per_dimension=mean_kl)
        self.figures += found.figures
        self.series |= found.series
        self.remarks += found.remarks

    def _samples(self) -> None:
        self.progress("samples")
        inputs = self.inputs
        try:
            figures, values, monitor = evaluate_samples(
                self.model,
                inputs.train,
                inputs.test,
                self.extractors,
                inputs.info,
                seed=inputs.seed,
                max_samples=self.max_samples,
            )
        except DataError as error:
            self.remarks.append(f"Samples not evaluated: {error}")
            return
        self.figures += figures
        below = shortfall(self.figures)
        verdict = decide_verdict(values, monitor.reference, training=self.training, below=below, ended=True)
        # Samples of an autoencoder depend on the density of its codes, and blur lowers the variety that features see.
        if verdict.name in ("healthy", "undertrained") or not is_trained_to_encode(self.model):
            self.verdict, self.verdict_evidence = verdict.name, verdict.evidence
        self.remarks.append(f"Samples: {verdict.name}: {verdict.evidence}.")


def _prefixed(prefix: str, errors: ImageErrors) -> PerImage:
    return {f"{prefix}/{key}": value for key, value in errors._asdict().items()}
