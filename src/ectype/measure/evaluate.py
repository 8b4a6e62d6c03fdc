"""A model on held-out images: every figure that it can have, with what it must be compared to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.data.feed import Feed, evenly
from ectype.errors import DataError
from ectype.losses.ssim import ssim_radius
from ectype.measure import codes as coding
from ectype.measure.baselines import NEAREST, Baselines, named, shrunken
from ectype.measure.evaluation import Evaluation, Figure, number
from ectype.measure.features import Extractor
from ectype.measure.generation import generation
from ectype.measure.likelihood import QUICK, affordable, bits_per_dimension, bound_terms, likelihood_of, weighted_bound
from ectype.measure.reconstruction import LARGEST_PSNR, Closeness, baseline_images, closeness, interval
from ectype.measure.translation import CONFUSION, figures_of, translated
from ectype.measure.variety import Variance, detail, detail_figure
from ectype.measure.verdict import judge
from ectype.models.base import Encodes, Reconstructs, Samples, Scores, evaluating, has_own_codes
from ectype.models.corruptions import CorruptionConfig
from ectype.models.translator import Translator
from ectype.nets.linear import fit_pca
from ectype.recipe import Recipe
from ectype.sections import Augment, DataInfo
from ectype.training.position import derive, looking

__all__ = ["corruption_of", "density_kind", "evaluate"]

CODE_NUMBERS = 20_000_000
"""Numbers of codes kept of each split."""
PROBE_IMAGES = 5000
"""Most training images that a probe is fitted on."""
SERIES = 256
"""Longest spectrum kept for a chart."""

Image = Float[Tensor, "b c h w"]
PerImage = dict[str, Tensor]


def corruption_of(model: nn.Module) -> CorruptionConfig | None:
    """What a model was trained to undo; None if nothing."""
    found = getattr(model, "corruption", None)
    return found if isinstance(found, CorruptionConfig) and found.active else None


def density_kind(model: nn.Module) -> str:
    """What kind of density over images a model has: explicit bound, implicit, or none."""
    if isinstance(model, Scores):
        return "explicit bound"
    return "implicit" if isinstance(model, Samples) and not has_own_codes(model) else "none"


def evaluate(
    model: nn.Module,
    train: Feed,
    test: Feed,
    *,
    recipe: Recipe,
    device: torch.device,
    likelihood_samples: int | None = None,
    most: int | None = None,
    extractors: Sequence[Extractor] = (),
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a model on test images, which it must not have been trained or chosen on.

    Args:
        model: On `device`, with `info` of the images it was built for.
        train: Training images without augmentation: baselines and probes are fitted on them.
        test: Held-out images.
        recipe: Of the run.
        device: Where to compute.
        likelihood_samples: k of the importance-weighted bound, then of all images; None for 64 draws of at most 1,000,
            of fewer or none where a network is large.
        most: At most so many test images, spread evenly; None for all.
        extractors: What samples are compared by, of a model that samples; none leaves that out.
        progress: Is told what is measured next.

    Raises:
        ValueError: No test images, or augmented training images.
    """
    if len(test) == 0:
        raise ValueError("no test images: raise data.split.test.")
    if train.augment != Augment():
        raise ValueError("evaluate wants training images as they are: build the feed with training=False.")
    with evaluating(model):
        return _Evaluator(model, train, test, recipe, device, likelihood_samples, most, extractors, progress).run()


class _Evaluator:
    """One evaluation: a pass over training images, a pass over test images, then figures."""

    def __init__(
        self,
        model: nn.Module,
        train: Feed,
        test: Feed,
        recipe: Recipe,
        device: torch.device,
        samples: int | None,
        most: int | None,
        extractors: Sequence[Extractor],
        progress: Callable[[str], None] | None,
    ) -> None:
        self.model, self.train, self.test, self.device = model, train, test, device
        self.samples = samples or QUICK.samples
        self.quick = samples is None
        self.binarised = (
            "" if recipe.data.binarise == "none" else f"; pixels made black or white: {recipe.data.binarise}"
        )
        self.extractors = extractors
        self.tell = progress or (lambda what: None)
        self.info: DataInfo = model.info  # type: ignore[assignment]  # every model has one
        self.seed = recipe.train.seed
        self.size, self.moment = looking(self.info, recipe.train.seed, device)
        self.most = len(test) if most is None else min(most, len(test))
        self.figures: list[Figure] = []
        self.remarks: list[str] = []
        self.series: dict[str, list[float]] = {}
        self.baselines: Baselines | None = None
        self.variance = Variance()
        self.verdict = ""
        self.kl_sum: Tensor | None = None
        self.labelled = train.images.labels is not None and test.images.labels is not None

    def run(self) -> Evaluation:
        batch, _ = next(self.test.sequence(1, self.moment, most=1))
        code_numbers = self.model.encode(batch.image)[0].numel() if isinstance(self.model, Encodes) else None
        cases: dict[str, list[int]] = {}
        self.tell(f"{self.most:,} test images and what they are compared with")
        if isinstance(self.model, Reconstructs):
            self.baselines = Baselines(self.train, self.info, self.size, self.moment, code_numbers)
            self.remarks += [self.baselines.remark] if self.baselines.remark else []
        found = {} if isinstance(self.model, Translator) else self._look()
        if "mse" in found:
            self._reconstruction(found, code_numbers)
            cases = self._cases(found["mse"])
        if isinstance(self.model, Translator):
            seen = translated(self.model, self.test, self.seed, self.most)
            self.figures += figures_of(self.model, seen)
            cases = self._cases(seen["error"])
            if "counts" in seen:
                self.series[CONFUSION] = seen["counts"].sum(0).flatten().tolist()
        if "restored psnr" in found:
            self._denoising(found)
        if "loss" in found:
            self._bound_terms(found)
        if isinstance(self.model, Scores):
            self._weighted_bound(self.model)
        if isinstance(self.model, Encodes) and code_numbers is not None:
            self._codes(self.model, code_numbers, found)
        if isinstance(self.model, Samples) and self.extractors:
            self._generation()
        return Evaluation(
            density=density_kind(self.model),
            parameters=sum(p.numel() for p in self.model.parameters()),
            image_numbers=self.info.numbers,
            code_numbers=code_numbers,
            train_images=len(self.train),
            test_images=self.most,
            seed=self.seed,
            figures=self.figures,
            series=self.series,
            cases=cases,
            remarks=self.remarks,
            verdict=self.verdict,
        )

    # ── Passes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> PerImage:
        """Numbers of every test image, in one pass."""
        kept: dict[str, list[Tensor]] = defaultdict(list)
        for batch, here in self.test.sequence(self.size, self.moment, most=self.most):
            for name, values in self._see(batch, here).items():
                kept[name].append(values)
        return {name: torch.cat(parts) for name, parts in kept.items()}

    def _see(self, batch: Batch, here: Moment) -> PerImage:
        image, seen = batch.image, {}
        if isinstance(self.model, Reconstructs):
            assert self.baselines is not None
            back = self.model.reconstruct(image)
            seen |= {**closeness(back, image)._asdict(), **self.baselines.see(image)}
            seen |= {"detail": detail(back), "image detail": detail(image)}
            self.variance.see(back, image)
            if (corruption := corruption_of(self.model)) is not None:
                noisy = corruption.apply(image, here)
                seen |= _named("noisy", closeness(noisy, image))
                seen |= _named("restored", closeness(self.model.reconstruct(noisy), image))
        if isinstance(self.model, coding.HasPosterior) and likelihood_of(self.model) is not None:
            terms = bound_terms(self.model, image, here)
            seen |= {"loss": terms.loss, "kl": terms.kl.sum(1), "−ELBO": terms.negative_elbo}
            so_far = self.kl_sum if self.kl_sum is not None else torch.zeros(terms.kl.shape[1], dtype=torch.float64)
            self.kl_sum = so_far + terms.kl.double().sum(0)
        return seen

    def _coded(self, model: Encodes, feed: Feed, n: int, pixel_features: Callable[[Tensor], Tensor]) -> PerImage:
        """Codes, labels and pixels of at most n images of a split."""
        kept: dict[str, list[Tensor]] = defaultdict(list)
        for batch, _ in feed.sequence(self.size, self.moment, most=n):
            kept["code"].append(model.encode(batch.image).flatten(1).float().cpu())
            if self.labelled and batch.label is not None:
                kept["label"].append(batch.label.cpu())
                kept["pixels"].append(pixel_features(batch.image))
        return {name: torch.cat(parts) for name, parts in kept.items()}

    # ── Figures ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _mean(self, name: str, values: Tensor, group: str, **more: Any) -> None:
        low, high = interval(values)
        self.figures.append(
            Figure(name, float(values.double().mean()), group=group, low=low, high=high, n=len(values), **more)
        )

    def _reconstruction(self, found: PerImage, code_numbers: int | None) -> None:
        assert self.baselines is not None
        rows = (("mse", "MSE", "lower", ""), ("psnr", "PSNR", "higher", "dB"), ("ssim", "SSIM", "higher", ""))
        exact = int((found["psnr"] >= LARGEST_PSNR).sum())
        notes = {
            "mse": f"pixels in [0, 1]; baselines are of {self.baselines.fitted_on:,} training images",
            "psnr": f"{exact} exact copies count as {LARGEST_PSNR:g} dB" if exact else "",
            "ssim": "" if ssim_radius(self.info.size) == 5 else "window smaller than the usual 11 pixels",
        }
        linear = list(self.baselines.linear.values())
        if linear:
            notes["mse"] += f"; PCA {linear[0].solver}, clamped to [0, 1]"
        small = self.baselines.small
        simple = ["mean image", NEAREST, *([shrunken(small, self.info.channels)] if small is not None else [])]
        simple += map(named, self.baselines.linear)
        for key, name, better, unit in rows:
            beside = {what: float(found[f"{what} {key}"].mean()) for what in simple if f"{what} {key}" in found}
            self._mean(name, found[key], "reconstruction", better=better, unit=unit, beside=beside, note=notes[key])
        if linear and code_numbers is not None:
            difference = found["psnr"] - found[f"{named(code_numbers)} psnr"]
            note = "image by image; above 0 the network earns its keep"
            self._mean(
                "PSNR above PCA's",
                difference,
                "reconstruction",
                better="higher",
                unit="dB",
                note=note,
                among=named(code_numbers),
            )
        more = (self.variance.figure(), detail_figure(found["detail"], found["image detail"], "reconstruction"))
        self.figures += [figure for figure in more if figure is not None]

    def _cases(self, error: Tensor) -> dict[str, list[int]]:
        """Places in the test split of the best, middle and worst images."""
        places = evenly(len(self.test), self.most)
        order, n = places[error.argsort()].tolist(), min(5, len(error))
        middle = (len(order) - n) // 2
        return {"best": order[:n], "median": order[middle : middle + n], "worst": order[-n:][::-1]}

    def _denoising(self, found: PerImage) -> None:
        corruption = corruption_of(self.model)
        assert corruption is not None
        settings = ", ".join(f"{k} {v}" for k, v in corruption.model_dump().items() if k != "kind")
        note = f"against the clean image; corruption: {corruption.kind}, {settings}, not clipped"
        for key, name, unit in (("psnr", "PSNR of restored images", "dB"), ("ssim", "SSIM of restored images", "")):
            beside = {"corrupted input": float(found[f"noisy {key}"].mean())}
            self._mean(
                name, found[f"restored {key}"], "denoising", better="higher", unit=unit, beside=beside, note=note
            )

    def _bound_terms(self, found: PerImage) -> None:
        likelihood = likelihood_of(self.model)
        assert likelihood is not None
        nats = "nats" if likelihood.density is not None else ""
        note = "one draw of q(z|x) per image, summed over the image's numbers"
        self._mean(likelihood.loss_name, found["loss"], "likelihood", better="lower", unit=nats, note=note)
        self._mean("KL", found["kl"], "likelihood", unit="nats", note="KL(q(z|x) ‖ N(0, I)), closed form")
        if likelihood.density is None:
            note = "no likelihood: it bounds nothing, and compares only with runs of this same loss"
        else:
            left_out = likelihood.constant * self.info.numbers
            note = f"lacks a constant of {left_out:.1f} nats per image" if left_out else "β = 1"
        if likelihood.density is None or likelihood.constant:
            total = found["loss"] + found["kl"]
            self._mean(f"{likelihood.loss_name} + KL", total, "likelihood", better="lower", unit=nats, note=note)
        if likelihood.density is not None:
            note = f"β = 1, constants included{self.binarised}"
            if (sigma := getattr(likelihood, "log_sigma", None)) is not None:
                note += f"; σ = {math.exp(float(sigma)):.4g}"
            name = f"−ELBO ({likelihood.density})"
            self._mean(name, found["−ELBO"], "likelihood", better="lower", unit="nats", note=note)

    def _generation(self) -> None:
        self.tell("samples")
        try:
            figures, signs, watch = generation(
                self.model, self.train, self.test, self.extractors, self.info, seed=self.seed
            )
        except DataError as error:
            self.remarks.append(f"Samples not judged: {error}")
            return
        self.figures += figures
        verdict = judge(signs, watch.reference)
        self.verdict = verdict.name
        self.remarks.append(f"Samples: {verdict.name}: {verdict.words}.")

    def _weighted_bound(self, model: Scores) -> None:
        generator = torch.Generator().manual_seed(derive(self.seed, "evaluate", "likelihood"))
        n = min(self.most, affordable(self.model, self.samples)) if self.quick else self.most
        if n < min(self.most, QUICK.least):
            why = f"{self.samples} decodings of each image would take too long here"
            self.remarks.append(f"Likelihood not bounded: {why}; --likelihood {self.samples} takes the time.")
            return
        self.tell(f"the likelihood of {n:,} images, by {self.samples:,} draws each")
        batches = self.test.sequence(self.size, self.moment, most=n)
        bound = torch.cat(
            [weighted_bound(model, b.image, samples=self.samples, generator=generator) for b, _ in batches]
        )
        likelihood = likelihood_of(self.model)
        discrete, stated = (likelihood.discrete, likelihood.density) if likelihood is not None else (False, None)
        kind, aside = ("probability", "") if discrete else ("density", ", which may exceed 1")
        note = f"a lower bound of the log of a {kind}{aside}" + (f" ({stated})" if stated else "") + self.binarised
        name = f"log-likelihood, importance-weighted, k = {self.samples}"
        self._mean(name, bound, "likelihood", better="higher", unit="nats", note=note, among=kind)
        if discrete:
            note = f"an upper bound, from the importance-weighted log-likelihood{self.binarised}"
            bits = bits_per_dimension(bound, self.info.numbers)
            self._mean("bits per dimension", bits, "likelihood", better="lower", unit="bits", note=note)

    def _codes(self, model: Encodes, numbers: int, found: PerImage) -> None:
        self.tell("codes")
        n = max(2, CODE_NUMBERS // numbers)
        pixel_features, on_pixels = self._pixel_features()
        test = self._coded(model, self.test, min(n, self.most), pixel_features)
        codes = test["code"]
        beside = {"numbers of the code": float(numbers)}
        if len(codes) >= 2:
            values = coding.singular_values(codes)
            self.series["singular values of the codes"] = values[:SERIES].tolist()
            note = f"exp of the entropy of the singular values of {len(codes):,} centred codes"
            rank = coding.effective_rank(codes)
            self.figures.append(Figure("effective rank", rank, "codes", n=len(codes), beside=beside, note=note))
        if len(codes) >= 2 and isinstance(model, coding.HasPosterior):
            note = f"numbers of the code whose posterior mean has a variance over images above {coding.ACTIVE}"
            active = float(coding.active_units(codes))
            self.figures.append(Figure("active units", active, "codes", n=len(codes), beside=beside, note=note))
        if self.kl_sum is not None:
            each = (self.kl_sum / self.most).sort(descending=True).values
            self.series[coding.KL_SERIES] = each[:SERIES].tolist()
            note = (
                f"the mean over numbers; the largest {number(float(each[0]))}, the smallest {number(float(each[-1]))}"
            )
            self._mean(coding.KL_SERIES, found["kl"] / numbers, "codes", unit="nats", note=note)
        if isinstance(model, coding.Quantizes):
            batches = self.test.sequence(self.size, self.moment, most=min(n, self.most))
            indices = torch.cat([model.indices(batch.image).flatten(1).cpu() for batch, _ in batches])
            self.figures += coding.codebook_figures(indices, model.codebook_size, self.info.numbers)
        if self.labelled:
            train = self._coded(model, self.train, min(n, PROBE_IMAGES), pixel_features)
            self._probe(train, test, on_pixels)

    def _pixel_features(self) -> tuple[Callable[[Tensor], Tensor], str]:
        """What a probe on pixels is given, and that in words."""
        if not self.labelled or self.info.numbers <= coding.PROBE_FEATURES:
            return lambda image: image.flatten(1).cpu(), "all pixels"
        n = min(PROBE_IMAGES, baseline_images(len(self.train), self.info.numbers))
        pixels = [b.image.flatten(1).cpu() for b, _ in self.train.sequence(self.size, self.moment, most=n)]
        reduced = fit_pca(torch.cat(pixels), min(coding.PROBE_REDUCED, n - 1, self.info.numbers - 1))
        return reduced.code, f"{len(reduced.directions)} principal components of the pixels"

    def _probe(self, train: PerImage, test: PerImage, on_pixels: str) -> None:
        labels, answers = train["label"], test["label"]
        if len(labels.unique()) < 2:
            self.remarks.append("Linear probe not shown: the training images have one class.")
            return
        probe = coding.linear_probe(train["code"], labels, test["code"], answers)
        pixels = coding.linear_probe(train["pixels"], labels, test["pixels"], answers)
        majority = int(labels.mode().values)
        low, high = coding.wilson(probe.accuracy, len(answers))
        beside = {
            f"probe on {on_pixels}": pixels.accuracy,
            f"always {self._class(majority)}": float((answers == majority).double().mean()),
        }
        note = f"{probe.note}; Wilson interval"
        shown: dict[str, Any] = {"n": len(answers), "better": "higher", "beside": beside, "note": note}
        self.figures.append(Figure("linear-probe accuracy", probe.accuracy, "codes", low=low, high=high, **shown))

    def _class(self, label: int) -> str:
        return self.info.classes[label] if label < len(self.info.classes) else str(label)


def _named(prefix: str, found: Closeness) -> PerImage:
    return {f"{prefix} {key}": value for key, value in found._asdict().items()}
