"""What a generator is followed by: samples of it against held-out real images, at fixed numbers, beside what real
images themselves show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ectype.data.feed import Feed, evenly
from ectype.data.preview import save_grid
from ectype.errors import DataError
from ectype.measure.copies import Authenticity, closer_to_train, duplicates
from ectype.measure.distances import Moments, Projection, fit_projection, frechet, kernel_distance, moments
from ectype.measure.diversity import Bins, fit_bins, ndb, vendi_ratio
from ectype.measure.features import Extractor, extract
from ectype.measure.neighbours import prdc
from ectype.models.base import Samples, evaluating
from ectype.sections import DataInfo
from ectype.training.loop import Callback, Check
from ectype.training.monitor import Monitor
from ectype.training.position import derive, looking
from ectype.training.rundir import RunDir
from ectype.training.trainer import Trainer
from ectype.training.watch import to_uint8

__all__ = ["LEAST_BINNED", "LEAST_WATCHED", "Evidence", "SampleEvidence", "SampleWatch", "Sign", "dimensions", "draw"]

REAL_SETS = 8
"""Sets of real images that the floor of the distance and its spread are found on."""
TRAIN = 20_000
"""Most training images that samples are compared with."""
ASKED = 2000
"""Samples that are asked whether they are copies where fewer are compared, unless features are slow."""
LEAST_BINNED = 20
"""Images of each kind without which there are no bins."""
LEAST_WATCHED = 8
"""Held-out images, and training images, without which samples cannot be compared at all."""
KINDS, OF_A_KIND = 20, 20
"""Kinds of images whose coverage is found by itself, at most, and held-out images that one needs for it."""
BINNED = 5000
"""Training images that bins are made of."""
SIGN_SETS = 2
"""Of these, the ones that the other signs are found on."""


LEAST, DISTANCES = "least coverage of a kind", ("FD-", "FID")
"""Names: of a sign, and how those of Fréchet distances begin."""


class Sign(NamedTuple):
    """What real images show of a sign, against other real images."""

    mean: float
    spread: float
    """Standard deviation over sets of images."""


class Evidence(NamedTuple):
    """Pictures behind the last verdict."""

    lost: Float[Tensor, "n c h w"] | None
    """Real images of the clusters that samples leave out."""
    repeated: Float[Tensor, "n c h w"] | None
    """Pairs of samples that are closest to each other."""
    copied: Float[Tensor, "n c h w"] | None
    """Pairs of a sample and the training image nearest to it."""


def dimensions(extractor: Extractor, real: int) -> int:
    """On how many principal components a Fréchet distance is taken: a quarter of the real images, 128 at most.

    A covariance has d²/2 numbers; with fewer than about four images for each dimension it is mostly chance.
    """
    return max(2, min(128, extractor.dimensions, real // 4))


def draw(model: Samples, n: int, *, seed: int, size: int) -> Iterator[Float[Tensor, "b c h w"]]:
    """Batches of `n` samples from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, size):
        yield model.sample(min(size, n - start), generator=generator)


class _Space(NamedTuple):
    """One extractor's view of the real images."""

    extractor: Extractor
    projection: Projection
    train: Float[Tensor, "n d"]
    """Projected features of training images: sets of real images are drawn from them."""
    held_out: Float[Tensor, "m d"]
    moments: Moments
    bins: Bins | None
    """None where there are too few images to fill two."""

    @property
    def distance_name(self) -> str:
        """What a Fréchet distance in it is called: FID is that of all of Inception's features and nothing else."""
        whole = len(self.projection.directions) == self.extractor.dimensions
        return "FID" if self.extractor.inception and whole else f"FD-{self.extractor.name}"


class SampleWatch:
    """A function from a model that samples to its signs, the distance first.

    What is drawn is the same at each call, so that two checks differ by the model alone; nothing of it is drawn from
    the run's own randomness. The first extractor's Fréchet distance is followed; where it was trained on labels, a
    label-free one stands beside it, because features that tell classes apart forget what varies within one.

    Args:
        info: Of the images.
        train: Training images without augmentation.
        held_out: Images that nothing is trained on.
        extractors: At least one.
        images: At most so many images of each kind per check.
        seed: Of all draws.

    Raises:
        DataError: Fewer than 8 images of either kind.

    Attributes:
        name: Of the distance that is followed.
        floor: That distance between real images and held-out ones, at the same numbers.
        spread: Its standard deviation.
        floors: The distance of every extractor.
        reference: What real images show of each sign.
        samples: Images generated per check and compared; those beyond are only asked whether they are copies.
    """

    def __init__(
        self,
        info: DataInfo,
        train: Feed,
        held_out: Feed,
        extractors: Sequence[Extractor],
        *,
        images: int,
        seed: int = 0,
    ) -> None:
        if min(len(train), len(held_out)) < LEAST_WATCHED:
            raise DataError(
                f"{len(train)} training and {len(held_out)} held-out images are too few to compare samples with: "
                f"{LEAST_WATCHED} of each are the least (data.split.val says how many are held out)."
            )
        self.info, self.seed = info, seed
        self.train, self.held_out = train, held_out
        self.size, self.moment = looking(info, seed, held_out.device, "watch")
        # Real images are compared at the same numbers as samples, in sets that must not all be one: half of them each.
        self.samples = max(2, min(images, TRAIN // 2, len(train) // 2))
        # How close samples come to training images needs no such care, and many samples to be sure.
        self.drawn = self.samples if extractors[-1].slow else max(self.samples, min(images, ASKED))
        self.known = min(len(train), max(2 * self.samples, min(4 * self.samples, TRAIN)))
        self.real = min(images, len(held_out))
        self.k = max(1, min(5, self.real // 4))
        self.spaces = [self._space(extractor) for extractor in extractors]
        self.kinds = self._kinds()
        self.name = self.spaces[0].distance_name
        self._authentic = Authenticity(self.spaces[-1].train)
        floors, signs = self._real_against_real()
        self.floors: list[float] = floors.mean(0).tolist()
        self.floor, self.spread = self.floors[0], float(floors[:, 0].std())
        spreads: list[float] = floors.std(0).tolist()
        self.reference = {
            space.distance_name: Sign(floor, spread)
            for space, floor, spread in zip(self.spaces, self.floors, spreads, strict=True)
        } | {
            name: Sign(sum(s[name] for s in signs) / len(signs), float(torch.tensor([s[name] for s in signs]).std()))
            for name in signs[0]
        }

    @property
    def summary(self) -> str:
        """One line on what is compared, and how far real images are from each other."""
        d = len(self.spaces[0].projection.directions)
        return (
            f"each check compares {self.samples:,} samples with {self.real:,} held-out images by {self.name} on "
            f"{d} principal components; between real and real images it is {self.floor:.4g} ± {self.spread:.2g}"
        )

    def _pixels(self, feed: Feed, most: int) -> Iterator[Tensor]:
        return (batch.image for batch, _ in feed.sequence(self.size, self.moment, most=most))

    def _space(self, extractor: Extractor) -> _Space:
        train = extract(extractor, self._pixels(self.train, self.known))
        held_out = extract(extractor, self._pixels(self.held_out, self.real))
        projection = fit_projection(train, dimensions(extractor, self.real))
        train, held_out = projection.apply(train), projection.apply(held_out)
        enough = min(len(train), len(held_out)) >= LEAST_BINNED
        bins = fit_bins(train[evenly(len(train), BINNED)], len(held_out), seed=self.seed) if enough else None
        return _Space(extractor, projection, train, held_out, moments(held_out), bins)

    def _kinds(self) -> Int[Tensor, " m"]:
        """The kind of each held-out image: its class, or its cell in the first space where classes are few or small."""
        labels = self.held_out.images.labels
        if labels is not None:
            found = labels[evenly(len(self.held_out), self.real)].long()
            if (
                len(self.info.classes) > 1
                and int(torch.bincount(found, minlength=len(self.info.classes)).min()) >= OF_A_KIND
            ):
                return found
        kinds = min(KINDS, self.real // (2 * OF_A_KIND))
        if kinds < 2:
            return torch.zeros(self.real, dtype=torch.int64)
        space = self.spaces[0]
        some = space.train[evenly(len(space.train), BINNED)]
        return fit_bins(some, self.real, kinds, seed=self.seed).assign(space.held_out)

    def _least(self, covered: Bool[Tensor, " m"]) -> tuple[float, int]:
        """Coverage of the kind that has least of it, and which that is; kinds of too few images are left out."""
        counts = torch.bincount(self.kinds).double()
        shares = torch.bincount(self.kinds, covered.double()) / counts.clamp(min=1)
        shares[counts < OF_A_KIND] = torch.inf
        place = int(shares.argmin())
        return min(1.0, float(shares[place])), place

    def _real_against_real(self) -> tuple[Tensor, list[dict[str, float]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, "floor"))
        floors, signs = [], []
        for number in range(REAL_SETS):
            chosen = torch.randperm(len(self.spaces[0].train), generator=generator)[: self.samples]
            drawn = [space.train[chosen] for space in self.spaces]
            floors.append([frechet(s.moments, moments(each)) for s, each in zip(self.spaces, drawn, strict=True)])
            if number < SIGN_SETS:
                others = torch.ones(len(self.spaces[0].train), dtype=torch.bool)
                others[chosen] = False
                signs.append(self.signs(drawn, others))
        return torch.tensor(floors, dtype=torch.float64), signs

    def signs(self, drawn: Sequence[Tensor], others: Tensor | None = None) -> dict[str, float]:
        """Every sign of one set of images, given their features in each space.

        Args:
            drawn: [n, d] of each space.
            others: Which training images these are not themselves; None for all.
        """
        found: dict[str, float] = {}
        for space, fake in zip(self.spaces, self._compared(drawn), strict=True):
            end = "" if space is self.spaces[0] else f" ({space.extractor.name})"
            shares = prdc(space.held_out, fake, self.k)
            found |= {
                f"precision{end}": shares.precision,
                f"recall{end}": shares.recall,
                f"coverage{end}": shares.coverage,
                f"Vendi ratio{end}": vendi_ratio(space.held_out, fake),
            }
            if space.bins is not None:
                binned = ndb(space.bins, space.held_out, fake)
                found |= {f"NDB/K{end}": binned.different, f"lost{end}": binned.lost_mass}
            found[f"repeated{end}"] = duplicates(space.held_out, fake).rate
            if space is self.spaces[-1]:
                # What is lost within one kind of image hardly shows in a mean over all.
                found[LEAST] = self._least(shares.covered)[0]
        # Copies are copies in every feature; those that know no labels keep most of an image.
        space, fake = self.spaces[-1], drawn[-1]
        train = space.train if others is None else space.train[others]
        found["authenticity"] = (self._authentic if others is None else Authenticity(train))(fake)
        test = closer_to_train(train, space.held_out, fake, seed=self.seed)
        found |= {"closer to training images": test.share, "told from held-out": test.told, "copied, z": test.z}
        return found

    def _compared(self, drawn: Sequence[Tensor]) -> list[Tensor]:
        return [features[: self.samples] for features in drawn]

    def draw(self, model: nn.Module) -> Float[Tensor, "n c h w"]:
        """The samples of a check, the same draws at each; the first `samples` of them are compared."""
        assert isinstance(model, Samples)
        with evaluating(model):
            batches = draw(model, self.drawn, seed=derive(self.seed, "samples"), size=self.size)
            return torch.cat([batch.float().cpu() for batch in batches])

    def features(self, samples: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """Projected features of images in each space."""
        # Copies are looked for in the last space, and there alone among more samples.
        return [
            space.projection.apply(extract(space.extractor, some.split(self.size)))
            for space, some in zip(
                self.spaces, [*[samples[: self.samples]] * (len(self.spaces) - 1), samples], strict=True
            )
        ]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The distance, then every sign."""
        samples = self.draw(model)
        drawn = self.features(samples)
        compared = self._compared(drawn)
        found = {self.name: frechet(self.spaces[0].moments, moments(compared[0]))}
        for space, fake in zip(self.spaces[1:], compared[1:], strict=True):
            found[space.distance_name] = frechet(space.moments, moments(fake))
        found["kernel distance"] = kernel_distance(self.spaces[0].held_out, compared[0])
        return found | self.signs(drawn)

    def evidence(self, model: nn.Module, n: int = 8) -> Evidence:
        """Pictures of what the signs mean, of the samples of a check.

        Args:
            model: It samples.
            n: Pictures, or pairs, of each kind.
        """
        samples = self.draw(model)
        drawn = self.features(samples)
        compared = self._compared(drawn)
        binned = [
            ndb(space.bins, space.held_out, fake)
            for space, fake in zip(self.spaces, compared, strict=True)
            if space.bins is not None
        ]
        most = max(binned, key=lambda each: each.lost_mass, default=None)
        places = [(most.real_bins == k).nonzero()[:, 0] for k in most.lost[:n]] if most is not None else []
        if not places:
            covered = prdc(self.spaces[-1].held_out, compared[-1], self.k).covered
            share, kind = self._least(covered)
            missed = (~covered & (self.kinds == kind)).nonzero()[:, 0]
            places = [missed] if share < self.reference[LEAST].mean and len(missed) else []
        chosen = torch.cat([place[: max(1, n // len(places))] for place in places]) if places else torch.zeros(0)
        space, fake = self.spaces[-1], drawn[-1]
        pairs = duplicates(space.held_out, compared[-1]).pairs[:n].flatten()
        closer = closer_to_train(space.train, space.held_out, fake, seed=self.seed)
        sample, near = closer.sample[:n], closer.nearest[:n]
        copies = torch.stack([samples[sample], self._images(self.train, near, self.known)], dim=1)
        return Evidence(
            self._images(self.held_out, chosen.long(), self.real) if len(chosen) else None,
            samples[pairs] if len(pairs) else None,
            copies.flatten(0, 1),
        )

    def _images(self, feed: Feed, places: Tensor, most: int) -> Tensor:
        """Real images by their place among the `most` that features were taken of."""
        index = evenly(len(feed), most)[places]
        return feed(index, self.moment(0, len(index))).image.cpu()

    def real_images(self, most: int) -> Float[Tensor, "n c h w"]:
        """Held-out images, spread evenly."""
        return torch.cat(list(self._pixels(self.held_out, min(most, self.samples)))).cpu()

    def train_parts(self, most: int) -> Iterator[Float[Tensor, "b c h w"]]:
        """Training images, spread evenly, some at a time."""
        return self._pixels(self.train, most)

    def train_images(self, most: int) -> Float[Tensor, "n c h w"]:
        """The same at once."""
        return torch.cat(list(self.train_parts(most))).cpu()

    def plain(self) -> dict[str, Any]:
        """What real images show, for a file beside the run."""
        return {
            "name": self.name,
            "floor": self.floor,
            "spread": self.spread,
            "samples": self.samples,
            "real": self.real,
            "reference": {name: list(sign) for name, sign in self.reference.items()},
        }


class SampleEvidence(Callback):
    """Keeps what real images show beside the run, and pictures of the evidence when a verdict is not a good one.

    Args:
        watch: What the run is followed by.
        run: Its directory.
    """

    def __init__(self, watch: SampleWatch, run: RunDir) -> None:
        self.watch, self.run = watch, run

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        self.run.watch_file.write_text(json.dumps(self.watch.plain(), ensure_ascii=False, indent=1))

    def checked(self, trainer: Trainer, check: Check) -> None:
        if check.verdict is None or check.verdict.name in ("healthy", "learning"):
            return
        found = self.watch.evidence(trainer.model)
        self.run.samples.mkdir(exist_ok=True)
        for name, images in found._asdict().items():
            if images is not None:
                save_grid(to_uint8(images), self.run.samples / f"evidence-{check.step:08d}-{name}.png")
