"""Quantizers: bottlenecks with a finite set of codes, from a learned codebook or a fixed grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.models.bottlenecks import Bottleneck, BottleneckConfig, BottleneckOutput, NoiseSource

__all__ = [
    "FiniteScalarConfig",
    "FiniteScalarQuantizer",
    "Quantizer",
    "VectorQuantizer",
    "VectorQuantizerConfig",
    "perplexity",
]

Features = Float[Tensor, "b c *map"]
Code = Float[Tensor, "b c *map"]
Vectors = Float[Tensor, "b g *map d"]
Indices = Int[Tensor, "b g *map"]

MAX_DISTANCES_PER_CHUNK = 2**20
"""Distances between vectors and codes that are computed at once."""
MAX_CODES = 2**62
"""Largest number of codes that 64-bit indices can represent."""
LLOYD_STEPS = 20
"""Steps of k-means with which a codebook is initialized."""
HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)
"""Mean of |x| for x ~ N(0, 1): the distance of the means of its two halves from 0."""


def perplexity(counts: Float[Tensor, "*lead k"]) -> Float[Tensor, " *lead"]:
    """Compute the perplexity of codebook usage: exp of the entropy of the relative counts.

    It is the effective number of codes in use; 1 if all counts are 0.

    Args:
        counts: How often each of k codes was used, ≥ 0.

    Example:
        >>> perplexity(torch.tensor([5.0, 5.0, 0.0]))
        tensor(2.)
    """
    frequencies = counts / counts.sum(-1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
    return torch.special.entr(frequencies).sum(-1).exp()


class Quantizer(Bottleneck):
    """Base class of quantizers, which replace each vector of the code by one of finitely many.

    A vector is the code at one position of a map, or the whole code if it is a vector. With several groups it is cut
    into equal pieces that are quantized separately (product quantization; Jégou et al. 2011).

    Args:
        dim: Dimensions of one piece.
        groups: Pieces per vector, g.

    Example:
        >>> quantizer = FiniteScalarConfig(levels=(5, 5)).build((2, 4, 4))
        >>> features = torch.randn(3, 2, 4, 4)
        >>> indices = quantizer.indices(features)
        >>> indices.shape, bool((quantizer.lookup(indices) == quantizer.code(features)).all())
        (torch.Size([3, 1, 4, 4]), True)
    """

    codebook_size: int
    """Number of codes for one piece."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.dim, self.groups = dim, groups

    def preprocess(self, vectors: Vectors) -> Vectors:
        """Map vectors to the range of the codes before they are quantized."""
        return vectors

    def assign(self, vectors: Vectors) -> Indices:
        """Return the index of the nearest code of each preprocessed vector."""
        raise TypeError(f"{type(self).__name__} must define assign(vectors)")

    def vectors(self, indices: Indices) -> Vectors:
        """Return the code vectors of indices in [0, codebook_size)."""
        raise TypeError(f"{type(self).__name__} must define vectors(indices)")

    def usage_notes(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """Return statistics of codebook usage, as means over the images of a batch."""
        raise TypeError(f"{type(self).__name__} must define usage_notes(vectors, indices)")

    def penalties(self, vectors: Vectors, codes: Vectors) -> dict[str, Vectors]:
        """Return penalties by name for each code dimension."""
        return {}

    def forward(self, features: Features, noise: NoiseSource) -> BottleneckOutput:
        # Nearest codes are found in float32, whatever precision the networks around run in.
        with torch.autocast(features.device.type, enabled=False):
            vectors = self.preprocess(self._split_groups(features))
            with torch.no_grad():
                indices = self.assign(vectors)
                codes = self.vectors(indices)
                notes = self.usage_notes(vectors, indices)
            # Straight-through estimator: the value of the code, the gradient of the vector (van den Oord et al. 2017,
            # section 3.2).
            straight_through = codes + (vectors - vectors.detach())
            penalties = {name: self._merge_groups(cost) for name, cost in self.penalties(vectors, codes).items()}
            return BottleneckOutput(self._merge_groups(straight_through), penalties, notes)

    def code(self, features: Features) -> Code:
        return self.lookup(self.indices(features))

    def init_from_features(self, features: Features) -> None:
        """Initialize the codes from features of training images, if they are learned."""

    def continuous_code(self, features: Features) -> Code:
        return self._merge_groups(self.preprocess(self._split_groups(features)))

    def indices(self, features: Features) -> Indices:
        """Return the code indices of the encoder's features."""
        with torch.autocast(features.device.type, enabled=False):
            return self.assign(self.preprocess(self._split_groups(features)).detach())

    def lookup(self, indices: Indices) -> Code:
        """Return the code of indices, as the decoder gets it."""
        return self._merge_groups(self.vectors(indices))

    def nearest(self, code: Float[Tensor, "b c *map"]) -> Code:
        """Return the nearest code of arbitrary points in the code space, such as draws from a density."""
        return self.lookup(self.assign(self._split_groups(code)))

    def _split_groups(self, code: Float[Tensor, "b c *map"]) -> Vectors:
        return code.float().unflatten(1, (self.groups, self.dim)).movedim(2, -1)

    def _merge_groups(self, vectors: Vectors) -> Code:
        return vectors.movedim(-1, 2).flatten(1, 2)


class VectorQuantizer(Quantizer):
    """A learned codebook (van den Oord et al. 2017) in which each code is the mean of the vectors assigned to it.

    The means are exponential moving averages (Razavi et al. 2019, appendix A.1, eq. 2): Nᵢ ← γNᵢ + (1 − γ)nᵢ,
    mᵢ ← γmᵢ + (1 − γ)Σz, eᵢ = mᵢ / Nᵢ, with counts nᵢ per image. They start at 0, so that the first batch alone
    determines the first codes.

    A code is dead when its N falls below `revive_below` times the mean of all N. It is revived with half of the vectors
    of the code that has the largest total squared error: that code's cell is split along its widest axis, at the means
    of the two halves of a Gaussian (Linde, Buzo and Gray 1980). The first batch fills the whole codebook this way. All
    updates depend only on averaged counts, sums and squares, so that neither micro-batches nor processes change them.

    Args:
        dim: Dimensions of one piece of a vector.
        config: Size of the codebook, groups and updates.
    """

    costs = ("commitment",)
    weights: ClassVar[Mapping[str, float]] = {"commitment": 0.25}
    whitened = False  # so that the closest entry of the codebook is the one with the smallest error in pixels

    codebook: Tensor
    """Codes [K, d]."""
    counts: Tensor
    """Moving average of the vectors per image that each code was assigned to, N [K]."""
    sums: Tensor
    """Moving average of the sums of these vectors, m [K, d]."""
    squares: Tensor
    """Moving average of the sums of their squares [K, d]."""
    idle: Tensor
    """Batches since each code was last used [K]."""

    def __init__(self, dim: int, config: VectorQuantizerConfig) -> None:
        super().__init__(dim, config.groups)
        k = self.codebook_size = config.codes
        self.decay, self.cosine, self.revive_below = (config.decay, config.cosine, config.revive_below)
        self.max_idle = round(1 / (1 - config.decay))
        drawn = torch.randn(k, dim)
        self.register_buffer("codebook", F.normalize(drawn, dim=1) if self.cosine else drawn.div_(k))
        self.register_buffer("counts", torch.zeros(k))
        self.register_buffer("sums", torch.zeros(k, dim))
        self.register_buffer("squares", torch.zeros(k, dim))
        self.register_buffer("idle", torch.full((k,), self.max_idle))

    def preprocess(self, vectors: Vectors) -> Vectors:
        """Normalize vectors to length 1 if codes are compared by cosine similarity."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def assign(self, vectors: Vectors) -> Indices:
        """Return the index of the code at the least Euclidean distance; for unit vectors it has the largest cosine."""
        # |z − e|² without |z|², which is the same for all codes.
        half = 0.5 * self.codebook.square().sum(1)
        flat = vectors.detach().flatten(0, -2)
        # Runtimes of exported graphs have no lists of tensors, and manage memory on their own.
        chunk = max(1, MAX_DISTANCES_PER_CHUNK // self.codebook_size)
        chunks = [flat] if torch.compiler.is_exporting() else flat.split(chunk)
        indices = [torch.addmm(half, part, self.codebook.T, alpha=-1).min(1).indices for part in chunks]
        return torch.cat(indices).view(vectors.shape[:-1])

    def vectors(self, indices: Indices) -> Vectors:
        return F.embedding(indices, self.codebook)

    def penalties(self, vectors: Vectors, codes: Vectors) -> dict[str, Vectors]:
        """Return the squared distance to the code, which keeps the encoder's output close to the codebook."""
        return {"commitment": (vectors - codes).square()}

    def usage_notes(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """Return codebook usage before this batch, and in training what `update_buffers` needs."""
        used = (self.idle < self.max_idle).float().mean()
        notes = {"codebook usage": used, "code perplexity": perplexity(self.counts)}
        return {**notes, **self._moments(vectors, indices)} if self.training else notes

    def _moments(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """Return each code's number of vectors, their sum and the sum of their squares, as means over the images."""
        flat, n = vectors.flatten(0, -2), len(vectors)
        moments = torch.cat([torch.ones_like(flat[:, :1]), flat, flat.square()], dim=1)
        totals = moments.new_zeros(self.codebook_size, moments.shape[1])
        totals = totals.index_add_(0, indices.flatten(), moments) / n
        sums, squares = totals[:, 1:].chunk(2, dim=1)
        return {"codebook counts": totals[:, 0], "codebook sums": sums, "codebook squares": squares}

    @torch.no_grad()
    def init_from_features(self, features: Features) -> None:
        """Set the codebook to cluster centers of training images' vectors, found by k-means."""
        vectors = self.preprocess(self._split_groups(features))
        for _ in range(LLOYD_STEPS):
            self._update(self._moments(vectors, self.assign(vectors)), decay=0)

    @torch.no_grad()
    def update_buffers(self, notes: Mapping[str, Tensor]) -> None:
        """Update the codebook with a batch's averaged counts [K], sums [K, d] and sums of squares [K, d]."""
        self._update(notes, self.decay)

    def _update(self, notes: Mapping[str, Tensor], decay: float) -> None:
        counts = notes["codebook counts"]
        for average, value in (
            (self.counts, counts),
            (self.sums, notes["codebook sums"]),
            (self.squares, notes["codebook squares"]),
        ):
            average.lerp_(value.to(average), 1 - decay)
        used = counts > 0
        self.idle.copy_(torch.where(used, 0, self.idle + 1))
        # Sums and counts of the other codes have decayed by the same factor; dividing them again adds rounding errors.
        self._set_codes(used.nonzero().squeeze(1))
        if self.revive_below:
            self._revive_dead_codes()

    def _set_codes(self, which: Int[Tensor, " n"]) -> None:
        mean = self.sums[which] / self.counts[which, None]
        self.codebook[which] = F.normalize(mean, dim=1) if self.cosine else mean

    def _revive_dead_codes(self) -> None:
        """Split cells for dead codes until no code is dead, or no cell is worth splitting."""
        min_count = self.revive_below * self.counts.mean()
        while len(dead := (self.counts < min_count).nonzero().squeeze(1)):
            counts = self.counts.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            mean, square = self.sums / counts, self.squares / counts
            variance = square - mean.square()
            # The variance of a cell of equal vectors is a rounding error.
            variance = torch.where(variance > 1e-5 * square, variance, 0)
            widest, axis = variance.max(1)
            error = torch.where(self.counts >= 2 * min_count, self.counts * widest, 0)
            order = error.argsort(descending=True, stable=True)
            # Only cells with at least half of the largest error are split now: halves of these may have more error than
            # the other cells.
            n = min(len(dead), int((error >= 0.5 * error.max()).sum())) if error.max() > 0 else 0
            if n == 0:
                break
            split, revived = order[:n], dead[:n]
            offset = HALF_NORMAL_MEAN * widest[split].sqrt()
            axis, center = axis[split], mean[split, axis[split]]
            half_count = 0.5 * self.counts[split]
            for which, step in ((revived, offset), (split, -offset)):
                self.counts[which] = half_count
                self.sums[which] = mean[split] * half_count[:, None]
                self.sums[which, axis] += step * half_count
                # The total over both halves is unchanged: (c ± s)² + σ² − s² = c² + σ² ± 2cs.
                self.squares[which] = square[split] * half_count[:, None]
                self.squares[which, axis] += 2 * center * step * half_count
                self._set_codes(which)


class VectorQuantizerConfig(BottleneckConfig):
    """Each vector of the code is replaced by the nearest vector of a learned codebook."""

    kind: Literal["vq"] = "vq"
    discrete = True
    codes: int = Field(default=512, ge=2, le=1_000_000)
    """Size of the codebook."""
    groups: int = Field(default=1, ge=1, le=16_384)
    """Equal pieces that each vector is cut into; each has an index of its own into the same codebook."""
    cosine: bool = False
    """Whether vectors and codes have length 1, as in ViT-VQGAN (Yu et al. 2022); best with few dimensions each."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """γ of the moving averages, per batch."""
    revive_below: float = Field(default=0.05, ge=0, lt=0.5)
    """Fraction of the mean count below which a code is dead and revived; 0 for never."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if shape[0] % self.groups:
            raise ModelError(
                f"bottleneck.groups={self.groups} does not divide the {shape[0]} {_channels(shape)}: choose a divisor."
            )
        return VectorQuantizer(shape[0] // self.groups, self)


class FiniteScalarQuantizer(Quantizer):
    """Rounds each dimension to one of a few levels in [−1, 1] (Mentzer et al. 2023, arXiv 2309.15505).

    It has no parameters and no state. The index of a vector is its mixed-radix number, the first dimension being the
    least significant digit.

    Args:
        levels: Number of levels of each dimension of a piece.
        groups: Pieces per vector.
    """

    levels: Tensor
    """Number of levels of each dimension [d]."""
    basis: Tensor
    """Place value of each dimension [d]."""

    def __init__(self, levels: tuple[int, ...], groups: int) -> None:
        super().__init__(len(levels), groups)
        self.codebook_size = math.prod(levels)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        # Not saved, because the configuration determines them.
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    @property
    def half_width(self) -> Int[Tensor, " d"]:
        """Number of levels below 0 of each dimension."""
        return self.levels // 2

    def preprocess(self, vectors: Vectors) -> Vectors:
        """Bound vectors to the range of the levels by a tanh, shifted by half a level if their number is even."""
        # Slightly less than the outermost levels, so that rounding never leaves them.
        half_range = (self.levels - 1) * (1 - 1e-3) / 2
        offset = torch.where(self.levels % 2 == 1, 0.0, 0.5)
        shift = torch.tan(offset / half_range)
        return (torch.tanh(vectors + shift) * half_range - offset) / self.half_width

    def assign(self, vectors: Vectors) -> Indices:
        level = torch.round(vectors.detach() * self.half_width).long() + self.half_width
        return (level.clamp(min=0).minimum(self.levels - 1) * self.basis).sum(-1)

    def vectors(self, indices: Indices) -> Vectors:
        level = indices[..., None] // self.basis % self.levels
        return (level - self.half_width) / self.half_width

    def usage_notes(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """Return the number of codes per image and their perplexity; usage of the codebook would need many images."""
        per_image = indices.flatten(1).sort(dim=1).values
        # For each position: how often its code occurs in its image.
        counts = torch.searchsorted(per_image, per_image, right=True) - torch.searchsorted(per_image, per_image)
        return {
            "codes per image": (1 / counts).sum(1).mean(),
            "code perplexity per image": (counts / per_image.shape[1]).log().mean(1).neg().exp().mean(),
        }


class FiniteScalarConfig(BottleneckConfig):
    """Each dimension of the code is rounded to one of a few levels."""

    kind: Literal["fsq"] = "fsq"
    discrete = True
    levels: tuple[Annotated[int, Field(ge=2, le=256)], ...] = Field(default=(8, 8, 8, 5, 5, 5), min_length=1)
    """Levels of each dimension of a vector; the paper uses 8, 8, 8, 5, 5, 5 for about 2¹⁶ codes."""
    groups: int = Field(default=1, ge=1, le=16_384)
    """How often the levels are repeated over a vector; each repetition has an index of its own."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if math.prod(self.levels) > MAX_CODES:
            raise ModelError(
                f"bottleneck.levels={list(self.levels)} define more than 2^62 codes: "
                "give fewer levels, and raise bottleneck.groups."
            )
        if (required := len(self.levels) * self.groups) != shape[0]:
            size = f"net.latent_dim={required}" if len(shape) == 1 else f"net.latent={[required, *shape[1:]]}"
            times = f" in {self.groups} groups" if self.groups > 1 else ""
            raise ModelError(
                f"bottleneck.levels={list(self.levels)}{times} are for {required} {_channels(shape)}, and the code has "
                f"{shape[0]}: set {size}, or change the number of levels."
            )
        return FiniteScalarQuantizer(self.levels, self.groups)


def _channels(shape: tuple[int, ...]) -> str:
    return "dimensions of the code" if len(shape) == 1 else "channels of the latent map"
