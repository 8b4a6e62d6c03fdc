"""Bottlenecks with finitely many codes: a learned codebook, or a grid that needs none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from ectype.errors import ModelError
from ectype.models.bottlenecks import Bottleneck, BottleneckConfig, Coded, Noise

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

AT_ONCE = 2**20
"""Distances computed at once."""
MOST_CODES = 2**62
"""Codes that an index of 64 bits tells apart."""
HALF = math.sqrt(2 / math.pi)
"""Where the means of the two halves of N(0, 1) lie, cut at 0."""


def perplexity(counts: Float[Tensor, "*lead k"]) -> Float[Tensor, " *lead"]:
    """How many codes are used, each counted by how evenly: exp of the entropy of shares; 1 where all counts are 0."""
    shares = counts / counts.sum(-1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
    return torch.special.entr(shares).sum(-1).exp()


class Quantizer(Bottleneck):
    """Turns each vector of numbers into one of finitely many.

    A vector is what stands at one position of a map, or the whole of a code that is no map. With several groups it is
    cut into as many equal pieces, each quantised by itself (product quantisation; Jégou et al. 2011).
    """

    codebook_size: int
    """How many codes there are for one vector."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.dim, self.groups = dim, groups

    def bounded(self, vectors: Vectors) -> Vectors:
        """What is quantised: the encoder's numbers, brought to where codes can be."""
        return vectors

    def assign(self, vectors: Vectors) -> Indices:
        """Which code is nearest to each vector that `bounded` gave."""
        raise TypeError(f"{type(self).__name__} must define assign(vectors)")

    def vectors(self, indices: Indices) -> Vectors:
        """The code's numbers for each index in [0, codebook_size)."""
        raise TypeError(f"{type(self).__name__} must define vectors(indices)")

    def learn(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """Notes of a batch, means over its images."""
        raise TypeError(f"{type(self).__name__} must define learn(vectors, indices)")

    def penalties(self, vectors: Vectors, codes: Vectors) -> dict[str, Vectors]:
        """Named costs per number of the code."""
        return {}

    def forward(self, features: Features, noise: Noise) -> Coded:
        # Float32 decides which code is nearest, whatever precision the networks around run in.
        with torch.autocast(features.device.type, enabled=False):
            found = self.bounded(self._cut(features))
            with torch.no_grad():
                indices = self.assign(found)
                codes = self.vectors(indices)
                notes = self.learn(found, indices)
            # Exactly the code, with the gradient of what it stands for (van den Oord et al. 2017, section 3.2).
            through = codes + (found - found.detach())
            costs = {name: self._joined(cost) for name, cost in self.penalties(found, codes).items()}
            return Coded(self._joined(through), costs, notes)

    def code(self, features: Features) -> Code:
        return self.lookup(self.indices(features))

    def indices(self, features: Features) -> Indices:
        """Which code each vector of the encoder's numbers becomes."""
        with torch.autocast(features.device.type, enabled=False):
            return self.assign(self.bounded(self._cut(features)).detach())

    def lookup(self, indices: Indices) -> Code:
        """The code of given indices, as the decoder gets it."""
        return self._joined(self.vectors(indices))

    def nearest(self, code: Float[Tensor, "b c *map"]) -> Code:
        """The code that lies nearest to numbers in the space of codes, such as the draws of a density."""
        return self.lookup(self.assign(self._cut(code)))

    def _cut(self, code: Float[Tensor, "b c *map"]) -> Vectors:
        return code.float().unflatten(1, (self.groups, self.dim)).movedim(2, -1)

    def _joined(self, vectors: Vectors) -> Code:
        return vectors.movedim(-1, 2).flatten(1, 2)


class VectorQuantizer(Quantizer):
    """A learned codebook (van den Oord et al. 2017), each code the mean of the vectors that it stood for.

    The means are running ones (Razavi et al. 2019, appendix A.1, eq. 2): Nᵢ ← γNᵢ + (1 − γ)nᵢ, mᵢ ← γmᵢ + (1 − γ)Σz,
    eᵢ = mᵢ / Nᵢ, with nᵢ counted per image. They start at 0, so that the first batch alone decides on the first codes.

    A code is dead when its N falls below `revive_below` of the mean of all N. It then takes half of the vectors of the
    code with most squared error: that code's cell is cut across its widest axis, where the means of the two halves of
    a Gaussian would lie (the splitting of Linde, Buzo and Gray 1980). The first batch fills the whole codebook thus.
    All of it follows from averaged counts, sums and squares, so neither micro-batches nor processes change it.
    """

    costs = ("commitment",)
    weights: ClassVar[Mapping[str, float]] = {"commitment": 0.25}

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    squares: Tensor
    idle: Tensor

    def __init__(self, dim: int, config: VectorQuantizerConfig) -> None:
        super().__init__(dim, config.groups)
        k = self.codebook_size = config.codes
        self.decay, self.cosine, self.revive_below = config.decay, config.cosine, config.revive_below
        self.memory = round(1 / (1 - config.decay))
        drawn = torch.randn(k, dim)
        self.register_buffer("codebook", F.normalize(drawn, dim=1) if self.cosine else drawn / k)
        self.register_buffer("counts", torch.zeros(k))
        self.register_buffer("sums", torch.zeros(k, dim))
        self.register_buffer("squares", torch.zeros(k, dim))
        self.register_buffer("idle", torch.full((k,), self.memory))

    def bounded(self, vectors: Vectors) -> Vectors:
        """The vectors, of length 1 where similarity is a cosine."""
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def assign(self, vectors: Vectors) -> Indices:
        """The code at the least Euclidean distance, which among vectors of length 1 has the largest cosine."""
        # |z − e|² without |z|², which all codes have in common.
        half = 0.5 * self.codebook.square().sum(1)
        flat = vectors.detach().flatten(0, -2)
        # What an exported graph is run by has no lists of tensors, and manages its own memory.
        parts = [flat] if torch.compiler.is_exporting() else flat.split(max(1, AT_ONCE // self.codebook_size))
        found = [torch.addmm(half, part, self.codebook.T, alpha=-1).min(1).indices for part in parts]
        return torch.cat(found).view(vectors.shape[:-1])

    def vectors(self, indices: Indices) -> Vectors:
        return F.embedding(indices, self.codebook)

    def penalties(self, vectors: Vectors, codes: Vectors) -> dict[str, Vectors]:
        """The squared distance of each number to its code, which keeps the encoder near the codebook."""
        return {"commitment": (vectors - codes).square()}

    def learn(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """How the codebook stood before this batch, and in training what `observe` wants to know."""
        notes = {
            "codebook usage": (self.idle < self.memory).float().mean(),
            "code perplexity": perplexity(self.counts),
        }
        if self.training:
            flat, n = vectors.flatten(0, -2), len(vectors)
            seen = torch.cat([torch.ones_like(flat[:, :1]), flat, flat.square()], dim=1)
            totals = seen.new_zeros(self.codebook_size, seen.shape[1]).index_add_(0, indices.flatten(), seen) / n
            notes["codebook counts"] = totals[:, 0]
            notes["codebook sums"], notes["codebook squares"] = totals[:, 1:].chunk(2, dim=1)
        return notes

    @torch.no_grad()
    def observe(self, notes: Mapping[str, Tensor]) -> None:
        """Move the codebook by a batch's averaged counts [K], sums [K, d] and sums of squares [K, d]."""
        new = notes["codebook counts"]
        for held, now in (
            (self.counts, new),
            (self.sums, notes["codebook sums"]),
            (self.squares, notes["codebook squares"]),
        ):
            held.lerp_(now.to(held), 1 - self.decay)
        chosen = new > 0
        self.idle.copy_(torch.where(chosen, 0, self.idle + 1))
        # The other codes' sums and counts have shrunk alike; their quotient would only gather rounding.
        self._place(chosen.nonzero().squeeze(1))
        if self.revive_below:
            self._revive()

    def _place(self, which: Int[Tensor, " n"]) -> None:
        mean = self.sums[which] / self.counts[which, None]
        self.codebook[which] = F.normalize(mean, dim=1) if self.cosine else mean

    def _revive(self) -> None:
        """Give dead codes halves of others until none is dead, or none is worth splitting."""
        least = self.revive_below * self.counts.mean()
        while len(dead := (self.counts < least).nonzero().squeeze(1)):
            counts = self.counts.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            mean, square = self.sums / counts, self.squares / counts
            variance = square - mean.square()
            # A cell of equal vectors has no spread but rounding.
            variance = torch.where(variance > 1e-5 * square, variance, 0)
            widest, axis = variance.max(1)
            worth = torch.where(self.counts >= 2 * least, self.counts * widest, 0)
            order = worth.argsort(descending=True, stable=True)
            # What is worth far less waits: halves of the best may be worth more.
            n = min(len(dead), int((worth >= 0.5 * worth.max()).sum())) if worth.max() > 0 else 0
            if n == 0:
                break
            parents, heirs = order[:n], dead[:n]
            offset = HALF * widest[parents].sqrt()
            axis, centre = axis[parents], mean[parents, axis[parents]]
            half = 0.5 * self.counts[parents]
            for which, step in ((heirs, offset), (parents, -offset)):
                self.counts[which] = half
                self.sums[which] = mean[parents] * half[:, None]
                self.sums[which, axis] += step * half
                # Σ over both halves stays what it was: (c ± s)² + σ² − s² = c² + σ² ± 2cs.
                self.squares[which] = square[parents] * half[:, None]
                self.squares[which, axis] += 2 * centre * step * half
                self._place(which)


class VectorQuantizerConfig(BottleneckConfig):
    """Each vector of the code is replaced by the nearest of a learned codebook."""

    kind: Literal["vq"] = "vq"
    discrete = True
    codes: int = Field(default=512, ge=2)
    """Size of the codebook."""
    groups: int = Field(default=1, ge=1)
    """Equal pieces that each vector is cut into, each with an index of its own into the same codebook."""
    cosine: bool = False
    """Whether vectors and codes have length 1, as in ViT-VQGAN (Yu et al. 2022); best with few numbers per vector."""
    decay: float = Field(default=0.99, ge=0, lt=1)
    """γ of the running means, per batch."""
    revive_below: float = Field(default=0.05, ge=0, lt=0.5)
    """Share of the mean count below which a code is dead and revived; 0 for never."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if shape[0] % self.groups:
            raise ModelError(
                f"bottleneck.groups={self.groups} does not divide the {shape[0]} {_channels(shape)}: choose a divisor."
            )
        return VectorQuantizer(shape[0] // self.groups, self)


class FiniteScalarQuantizer(Quantizer):
    """Each number rounded to one of a few levels in [−1, 1] (Mentzer et al. 2023, arXiv 2309.15505).

    Nothing is learned and nothing kept. A vector's index counts in the mixed radix of the levels, the first number
    moving fastest.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...], groups: int) -> None:
        super().__init__(len(levels), groups)
        self.codebook_size = math.prod(levels)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        # The configuration knows them: no checkpoint needs to.
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    @property
    def half_width(self) -> Int[Tensor, " d"]:
        """Levels below 0."""
        return self.levels // 2

    def bounded(self, vectors: Vectors) -> Vectors:
        """tanh, scaled to the levels' range and moved by half a level where their count is even; then to [−1, 1]."""
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

    def learn(self, vectors: Vectors, indices: Indices) -> dict[str, Tensor]:
        """How many codes one image uses, and how evenly: of a whole codebook only many images could tell."""
        own = indices.flatten(1).sort(dim=1).values
        # How often the code of each position occurs in its image.
        counts = torch.searchsorted(own, own, right=True) - torch.searchsorted(own, own)
        return {
            "codes per image": (1 / counts).sum(1).mean(),
            "code perplexity per image": (counts / own.shape[1]).log().mean(1).neg().exp().mean(),
        }


class FiniteScalarConfig(BottleneckConfig):
    """Each number of the code is rounded to one of a few levels."""

    kind: Literal["fsq"] = "fsq"
    discrete = True
    levels: tuple[Annotated[int, Field(ge=2, le=256)], ...] = Field(default=(8, 8, 8, 5, 5, 5), min_length=1)
    """Levels of each number of a vector; the paper's for about 2¹⁶ codes are 8, 8, 8, 5, 5, 5."""
    groups: int = Field(default=1, ge=1)
    """How often the levels are repeated over a vector, each time with an index of its own."""

    def build(self, shape: tuple[int, ...]) -> Bottleneck:
        if math.prod(self.levels) > MOST_CODES:
            raise ModelError(
                f"bottleneck.levels={list(self.levels)} make more than 2^62 codes: "
                "give fewer, and raise bottleneck.groups."
            )
        if (wanted := len(self.levels) * self.groups) != shape[0]:
            size = f"net.latent_dim={wanted}" if len(shape) == 1 else f"net.latent={[wanted, *shape[1:]]}"
            times = f" in {self.groups} groups" if self.groups > 1 else ""
            raise ModelError(
                f"bottleneck.levels={list(self.levels)}{times} are for {wanted} {_channels(shape)}, and the code has "
                f"{shape[0]}: set {size}, or give as many levels."
            )
        return FiniteScalarQuantizer(self.levels, self.groups)


def _channels(shape: tuple[int, ...]) -> str:
    return "numbers of the code" if len(shape) == 1 else "channels of the latent map"
