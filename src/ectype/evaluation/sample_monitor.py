"""Monitoring of a generator: metrics of its samples against held-out real images, at fixed numbers, and the values that
real images themselves have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import DataError
from ectype.core.random import derive_seed
from ectype.data.loader import Loader, evaluation_batches, evenly_spaced
from ectype.evaluation.feature_space import (
    MAX_IMAGES_FOR_BINS,
    DiversityImages,
    FeatureSpace,
    feature_space,
)
from ectype.evaluation.features import Extractor, extract_features
from ectype.evaluation.figure_names import display_name, with_space
from ectype.evaluation.metrics.diversity import fit_bins, ndb, vendi_ratio
from ectype.evaluation.metrics.frechet_kernel import frechet, kernel_distance, moments
from ectype.evaluation.metrics.memorization import Authenticity, closer_to_train, duplicates
from ectype.evaluation.metrics.precision_recall import prdc
from ectype.models.base import Samples, evaluating

__all__ = [
    "MIN_MONITORED_IMAGES",
    "EvidenceImages",
    "RealReference",
    "SampleMonitor",
    "draw_samples",
]

NUM_REAL_SETS = 8
"""Sets of real images that the floor of the distance and its standard deviation are estimated on."""
NUM_REAL_SETS_FOR_METRICS = 2
"""How many of these sets the other metrics are estimated on."""
MAX_TRAINING_IMAGES = 20_000
"""Maximum number of training images that samples are compared with."""
MIN_COPY_SAMPLES = 2000
"""Samples that are checked for memorization where fewer are compared, unless features are slow."""
MIN_MONITORED_IMAGES = 8
"""Training and held-out images that a comparison of samples needs."""
MAX_GROUPS, MIN_IMAGES_PER_GROUP = 20, 20
"""Maximum number of groups of images whose coverage is measured separately, and held-out images that a group needs."""


class RealReference(NamedTuple):
    """The value of a metric for real images against other real images."""

    mean: float
    spread: float
    """Standard deviation over sets of images."""


class EvidenceImages(NamedTuple):
    """Images that the last verdict is based on."""

    lost: Float[Tensor, "n c h w"] | None
    """Real images of the clusters that samples leave out."""
    repeated: Float[Tensor, "n c h w"] | None
    """Pairs of samples that are closest to each other."""
    copied: Float[Tensor, "n c h w"] | None
    """Pairs of a sample and the training image nearest to it."""


def draw_samples(model: Samples, n: int, *, seed: int, size: int) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yield batches of `n` samples, drawn with a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, size):
        yield model.sample(min(size, n - start), generator=generator)


def _total_variance(features: Float[Tensor, "n d"]) -> float:
    """Return the variance over images, summed over features: half of the mean squared distance of two images."""
    return float(features.double().var(0).sum())


class SampleMonitor:
    """A function from a model that samples to the metrics of its samples, the monitored distance first.

    The same samples are drawn at each call, so that two checks differ by the model alone; the random draws of the run
    are left alone. The first extractor's Fréchet distance is monitored. Where it was trained on labels, a label-free
    extractor comes second, because features that separate classes ignore what varies within a class.

    Args:
        info: Shape and classes of the images.
        train: Training images without augmentation.
        held_out: Images that nothing is trained on.
        extractors: At least one.
        images: Maximum number of samples and of held-out images per check.
        seed: Seed of all draws.

    Raises:
        DataError: Fewer than 8 training or held-out images.

    Attributes:
        key: Key of the distance that is monitored.
        floor: That distance between real images and held-out images, at the same numbers.
        spread: Its standard deviation.
        floors: The floor of every extractor's distance.
        reference: Key → value for real images, of each metric.
        num_samples: Samples per check that are compared.
        num_drawn: Samples per check that are drawn; those beyond `num_samples` are only checked for memorization.
        num_train: Training images that samples are compared with.
        num_real: Held-out images that samples are compared with.
        diversity_images: The real images that diversity is measured on: with few held-out images, training images too.
    """

    def __init__(
        self,
        info: DataInfo,
        train: Loader,
        held_out: Loader,
        extractors: Sequence[Extractor],
        *,
        images: int,
        seed: int = 0,
    ) -> None:
        if min(len(train), len(held_out)) < MIN_MONITORED_IMAGES:
            raise DataError(
                f"{len(train)} training and {len(held_out)} held-out images are too few to compare samples with: "
                f"at least {MIN_MONITORED_IMAGES} of each are needed (data.split.val sets how many are held out)."
            )
        self.info, self.seed = info, seed
        self.train, self.held_out = train, held_out
        self.batch_size, self.context = evaluation_batches(info, seed, held_out.device, "watch")
        # Real images are compared at the same numbers as samples, in sets that should differ: each is half of them.
        self.num_samples = max(2, min(images, MAX_TRAINING_IMAGES // 2, len(train) // 2))
        # The distance of samples to training images does not depend on their number, and many give a sharper test.
        self.num_drawn = (
            self.num_samples if extractors[-1].slow else max(self.num_samples, min(images, MIN_COPY_SAMPLES))
        )
        self.num_train = min(len(train), max(2 * self.num_samples, min(4 * self.num_samples, MAX_TRAINING_IMAGES)))
        self.num_real = min(images, len(held_out))
        self.diversity_images = DiversityImages.choose(self.num_real, self.num_train, self.num_samples)
        self.k = max(1, min(5, len(self.diversity_images) // 4))
        self.spaces = [self._space(extractor) for extractor in extractors]
        self.groups = self._groups()
        self.key = self.spaces[0].distance_key
        self._authenticity = Authenticity(self.spaces[-1].for_copies(self.spaces[-1].train))
        floors, found = self._compare_real_with_real()
        self.floors: list[float] = floors.mean(0).tolist()
        self.floor, self.spread = self.floors[0], float(floors[:, 0].std())
        spreads: list[float] = floors.std(0).tolist()
        self.reference = {
            space.distance_key: RealReference(floor, spread)
            for space, floor, spread in zip(self.spaces, self.floors, spreads, strict=True)
        }
        for key in found[0]:
            values = torch.tensor([metrics[key] for metrics in found], dtype=torch.float64)
            self.reference[key] = RealReference(float(values.mean()), float(values.std()))

    @property
    def name(self) -> str:
        """Display name of the distance that is monitored."""
        return display_name(self.key)

    @property
    def summary(self) -> str:
        """One line on what is compared, and on the distance between real images."""
        d = self.spaces[0].distance_dims
        return (
            f"each check compares {self.num_samples:,} samples with {self.num_real:,} held-out images by {self.name} "
            f"on {d} principal components; for real images it is {self.floor:.4g} ± {self.spread:.2g}"
        )

    def _images(self, split: Loader, n: int) -> Iterator[Tensor]:
        return (batch.image for batch, _ in split.batches(self.batch_size, self.context, max_images=n))

    def _space(self, extractor: Extractor) -> FeatureSpace:
        train = extract_features(extractor, self._images(self.train, self.num_train))
        held_out = extract_features(extractor, self._images(self.held_out, self.num_real))
        return feature_space(extractor, train, held_out, self.diversity_images, seed=self.seed)

    def _groups(self) -> Int[Tensor, " v"]:
        """Return the group of each real image: its class, or a cluster where there are no classes or small ones."""
        labels = self._labels()
        if labels is not None:
            counts = torch.bincount(labels, minlength=len(self.info.classes))
            if int(counts.min()) >= MIN_IMAGES_PER_GROUP:
                return labels
        n = len(self.diversity_images)
        clusters = min(MAX_GROUPS, n // (2 * MIN_IMAGES_PER_GROUP))
        if clusters < 2:
            return torch.zeros(n, dtype=torch.int64)
        space = self.spaces[0]
        some = space.for_diversity(space.train[evenly_spaced(len(space.train), MAX_IMAGES_FOR_BINS)])
        return fit_bins(some, n, clusters, seed=self.seed).assign(space.real)

    def _labels(self) -> Int[Tensor, " v"] | None:
        """Return the classes of the real images that diversity is measured on; None without two classes or labels."""
        found = []
        for split, n, index in (
            (self.held_out, self.num_real, self.diversity_images.held_out),
            (self.train, self.num_train, self.diversity_images.train),
        ):
            if len(index) and split.images.labels is None:
                return None
            if split.images.labels is not None:
                found.append(split.images.labels[evenly_spaced(len(split), n)[index]].long())
        return torch.cat(found) if len(self.info.classes) > 1 else None

    def _min_group_coverage(self, covered: Bool[Tensor, " m"]) -> tuple[float, int]:
        """Return the lowest coverage of a group, and which group that is; groups of too few images are left out."""
        counts = torch.bincount(self.groups).double()
        fractions = torch.bincount(self.groups, covered.double()) / counts.clamp(min=1)
        fractions[counts < MIN_IMAGES_PER_GROUP] = torch.inf
        group = int(fractions.argmin())
        return min(1.0, float(fractions[group])), group

    def _compare_real_with_real(self) -> tuple[Tensor, list[dict[str, float]]]:
        """Return the distances [sets, spaces] and the metrics of sets of training images in place of samples."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "floor"))
        in_use = torch.zeros(self.num_train, dtype=torch.bool)
        in_use[self.diversity_images.train] = True
        floors, metrics = [], []
        for number in range(NUM_REAL_SETS):
            order = torch.randperm(self.num_train, generator=generator)
            chosen = order[: self.num_samples]
            floors.append([frechet(s.moments, moments(s.for_distance(s.train[chosen]))) for s in self.spaces])
            if number < NUM_REAL_SETS_FOR_METRICS:
                others = torch.ones(self.num_train, dtype=torch.bool)
                others[chosen] = False
                # No image may be compared with itself.
                fresh = order[~in_use[order]]
                diversity = self._diversity([space.train[fresh] for space in self.spaces])
                metrics.append(diversity | self._memorization(self.spaces[-1].train[chosen], others))
        return torch.tensor(floors, dtype=torch.float64), metrics

    def metrics(self, drawn: Sequence[Tensor]) -> dict[str, float]:
        """Compute every metric but the distances, given what `features` returns."""
        return self._diversity(drawn) | self._memorization(drawn[-1])

    def _for_diversity(self, drawn: Sequence[Tensor]) -> list[Tensor]:
        return [s.for_diversity(each[: self.num_samples]) for s, each in zip(self.spaces, drawn, strict=True)]

    def _diversity(self, drawn: Sequence[Tensor]) -> dict[str, float]:
        found: dict[str, float] = {}
        for space, fake in zip(self.spaces, self._for_diversity(drawn), strict=True):
            suffix = "" if space is self.spaces[0] else space.key
            neighbors = prdc(space.real, fake, self.k)
            found |= {
                with_space("precision", suffix): neighbors.precision,
                with_space("recall", suffix): neighbors.recall,
                with_space("coverage", suffix): neighbors.coverage,
                with_space("vendi_ratio", suffix): vendi_ratio(space.real, fake),
                with_space("sample_variance", suffix): _total_variance(fake) / max(_total_variance(space.real), 1e-12),
            }
            if space.bins is not None:
                binned = ndb(space.bins, space.real, fake)
                found[with_space("ndb", suffix)] = binned.different
                found[with_space("lost_clusters", suffix)] = binned.lost_mass
            found[with_space("duplicates", suffix)] = duplicates(space.real, fake).rate
            if space is self.spaces[-1]:
                # What is lost within one group of images hardly shows in a mean over all.
                found["min_group_coverage"] = self._min_group_coverage(neighbors.covered)[0]
        return found

    def _memorization(self, drawn: Tensor, others: Tensor | None = None) -> dict[str, float]:
        """Compare images with training images, of which `others` masks those that these images are not themselves."""
        # Copies are copies in every feature space; features without labels keep most of an image.
        space = self.spaces[-1]
        fake, train = space.for_copies(drawn), space.for_copies(space.train if others is None else space.train[others])
        authenticity = self._authenticity if others is None else Authenticity(train)
        closer = closer_to_train(train, space.for_copies(space.held_out), fake, seed=self.seed)
        return {
            "authenticity": authenticity(fake),
            "closer_to_training": closer.fraction,
            "membership_auc": closer.auc,
            "membership_z": closer.z,
        }

    def draw(self, model: nn.Module) -> Float[Tensor, "n c h w"]:
        """Return the samples of a check, drawn with the same seed each time; the first `num_samples` are compared."""
        assert isinstance(model, Samples)
        with evaluating(model):
            seed = derive_seed(self.seed, "samples")
            batches = draw_samples(model, self.num_drawn, seed=seed, size=self.batch_size)
            return torch.cat([batch.float().cpu() for batch in batches])

    def features(self, samples: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Return the projected features of images in each space; in all but the last, of the first `num_samples`."""
        # Memorization is measured in the last space, and only there on more samples.
        each = [*[samples[: self.num_samples]] * (len(self.spaces) - 1), samples]
        return [
            space.projection.apply(extract_features(space.extractor, some.split(self.batch_size)))
            for space, some in zip(self.spaces, each, strict=True)
        ]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return key → value: the monitored distance, then every other distance and metric."""
        drawn = self.features(self.draw(model))
        compared = [s.for_distance(each[: self.num_samples]) for s, each in zip(self.spaces, drawn, strict=True)]
        found = {
            space.distance_key: frechet(space.moments, moments(fake))
            for space, fake in zip(self.spaces, compared, strict=True)
        }
        space = self.spaces[0]
        held_out = space.for_distance(space.held_out)
        found[with_space("kernel_distance", space.key)] = kernel_distance(held_out, compared[0])
        return found | self.metrics(drawn)

    def evidence(self, model: nn.Module, n: int = 8) -> EvidenceImages:
        """Return images that show what the metrics mean, for the samples of a check.

        Args:
            model: A model that samples.
            n: Images, or pairs of images, of each kind.
        """
        samples = self.draw(model)
        drawn = self.features(samples)
        compared = self._for_diversity(drawn)
        lost = self._lost_images(compared, n)
        space = self.spaces[-1]
        pairs = duplicates(space.real, compared[-1]).pairs[:n].flatten()
        real = space.for_copies(space.train), space.for_copies(space.held_out)
        closer = closer_to_train(*real, space.for_copies(drawn[-1]), seed=self.seed)
        nearest = self._by_index(self.train, closer.nearest[:n], self.num_train)
        copies = torch.stack([samples[closer.sample[:n]], nearest], dim=1)
        return EvidenceImages(
            self._of_diversity(lost) if len(lost) else None,
            samples[pairs] if len(pairs) else None,
            copies.flatten(0, 1),
        )

    def _lost_images(self, compared: Sequence[Tensor], n: int) -> Int[Tensor, " some"]:
        """Return the indices of at most n real images of lost clusters, else of the group that is covered least."""
        binned = [
            ndb(space.bins, space.real, fake)
            for space, fake in zip(self.spaces, compared, strict=True)
            if space.bins is not None
        ]
        worst = max(binned, key=lambda each: each.lost_mass, default=None)
        clusters = [(worst.real_bins == k).nonzero()[:, 0] for k in worst.lost[:n]] if worst is not None else []
        if not clusters:
            covered = prdc(self.spaces[-1].real, compared[-1], self.k).covered
            coverage, group = self._min_group_coverage(covered)
            missed = (~covered & (self.groups == group)).nonzero()[:, 0]
            low = coverage < self.reference["min_group_coverage"].mean
            clusters = [missed] if low and len(missed) else []
        if not clusters:
            return torch.zeros(0, dtype=torch.int64)
        return torch.cat([cluster[: max(1, n // len(clusters))] for cluster in clusters])

    def _of_diversity(self, index: Tensor) -> Tensor:
        """Return real images by their index among those that diversity is measured on, the held-out ones first."""
        held_out, train = self.diversity_images
        found = [self._by_index(self.held_out, held_out[index[index < len(held_out)]], self.num_real)]
        if len(rest := index[index >= len(held_out)] - len(held_out)):
            found.append(self._by_index(self.train, train[rest], self.num_train))
        return torch.cat(found)

    def _by_index(self, split: Loader, index: Tensor, n: int) -> Tensor:
        """Return real images by their index among the `n` images that features were extracted from."""
        index = evenly_spaced(len(split), n)[index]
        return split(index, self.context(0, len(index))).image.cpu()

    def real_images(self, n: int) -> Float[Tensor, "n c h w"]:
        """Return held-out images, spread evenly: at most `n`, and no more than samples are compared."""
        return torch.cat(list(self._images(self.held_out, min(n, self.num_samples)))).cpu()

    def train_batches(self, n: int) -> Iterator[Float[Tensor, "b c h w"]]:
        """Yield batches of at most n training images, spread evenly."""
        return self._images(self.train, n)

    def train_images(self, n: int) -> Float[Tensor, "n c h w"]:
        """Return at most n training images, spread evenly."""
        return torch.cat(list(self.train_batches(n))).cpu()

    def to_dict(self) -> dict[str, Any]:
        """Return the values of real images, to be stored with a run."""
        return {
            "key": self.key,
            "floor": self.floor,
            "spread": self.spread,
            "samples": self.num_samples,
            "real": self.num_real,
            "reference": {key: list(value) for key, value in self.reference.items()},
        }
