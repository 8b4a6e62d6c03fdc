"""What is in a model's codes: how many directions they use, how many numbers carry anything, what can be read off."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.measure.evaluation import Figure
from ectype.models.bottlenecks import Posterior
from ectype.models.quantizers import perplexity

__all__ = [
    "ACTIVE",
    "KL_SERIES",
    "HasPosterior",
    "Probe",
    "Quantizes",
    "active_units",
    "codebook_figures",
    "effective_rank",
    "linear_probe",
    "singular_values",
    "wilson",
]

ACTIVE = 0.01
"""Variance over images from which the posterior mean of a code's number counts as active."""
KL_SERIES = "KL per number of the code"
"""Under which an evaluation keeps it, the largest first."""
PROBE_FEATURES = 1024
"""Most features that a probe is given; more are reduced to `PROBE_REDUCED` principal components."""
PROBE_REDUCED = 256


@runtime_checkable
class HasPosterior(Protocol):
    """A model that gives a distribution of codes for each image."""

    def posterior(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """q(z|x) of each image."""
        ...

    def draws(
        self, image: Float[Tensor, "b c h w"], k: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "k b c h w"]:
        """`k` images from draws of q(z|x) for each image."""
        ...


@runtime_checkable
class Quantizes(Protocol):
    """A model that has finitely many codes."""

    @property
    def codebook_size(self) -> int:
        """How many values an index has."""
        ...

    def indices(self, image: Float[Tensor, "b c h w"]) -> Int[Tensor, " b *code"]:
        """The indices, each in [0, codebook_size), that stand for each image."""
        ...


def codebook_figures(indices: Int[Tensor, " n *code"], codebook_size: int, image_numbers: int) -> list[Figure]:
    """How much of a codebook images use, how evenly, and how many bits the code of one image takes.

    Args:
        indices: Of n ≥ 1 images.
        codebook_size: How many values an index has.
        image_numbers: How many numbers an image has.
    """
    n, each = len(indices), indices[0].numel()
    counts = indices.unique(return_counts=True)[1].double()
    even = float(perplexity(counts))
    of = f"{n:,} images of {each:,} indices each, of {codebook_size:,} values"
    possible = {"largest possible": min(1.0, indices.numel() / codebook_size)}
    bits = each * math.log2(codebook_size)
    sizes = {"at the entropy of these indices": each * math.log2(even), "pixels of 8 bits": 8.0 * image_numbers}
    return [
        Figure(
            "codebook usage", len(counts) / codebook_size, "codes", n=n, beside=possible, note=f"share used by {of}"
        ),
        Figure(
            "code perplexity",
            even,
            "codes",
            n=n,
            beside={"codes": float(codebook_size)},
            note=f"exp of the entropy of the indices' shares; {of}",
        ),
        Figure(
            "bits per code",
            bits,
            "codes",
            "bits",
            beside=sizes,
            note=f"log2 of {codebook_size:,} × {each:,} indices; {bits / image_numbers:.3g} per number of the image",
        ),
    ]


def active_units(means: Float[Tensor, "n d"]) -> int:
    """How many numbers of the code have Var_x(E_q[z|x]) > 0.01 (Burda et al. 2016, section 5.2).

    Args:
        means: Posterior means of n ≥ 2 images.
    """
    return int((means.double().var(0) > ACTIVE).sum())


def singular_values(codes: Float[Tensor, "n d"]) -> Float[Tensor, " r"]:
    """Singular values of the centred codes, largest first, r = min(n, d)."""
    centred = codes.double() - codes.double().mean(0)
    return torch.linalg.svdvals(centred)


def effective_rank(codes: Float[Tensor, "n d"]) -> float:
    """How many directions the codes use, each counted by how evenly (Roy and Vetterli 2007, eq. 2).

    It is exp of the entropy of the centred codes' singular values divided by their sum: of the singular values, as in
    the paper, not of their squares, the variances. Between 1 and min(n − 1, d); 0 where all codes are one.
    """
    values = singular_values(codes)
    # What is left of a constant column after centring is rounding, which must not count as a direction.
    rounding = torch.finfo(torch.float64).eps * max(codes.shape) * float(torch.linalg.norm(codes.double()))
    values = values[values > rounding]
    if len(values) == 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


class Probe(NamedTuple):
    """How well classes can be read off linearly."""

    right: Float[Tensor, " n"]
    """1 for each test image that was labelled rightly, else 0."""
    note: str
    """What was fitted, in words."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.double().mean())


def linear_probe(
    train: Float[Tensor, "n d"], train_labels: Int[Tensor, " n"], test: Float[Tensor, "m d"], labels: Int[Tensor, " m"]
) -> Probe:
    """Fit a logistic regression on features of training images and try it on test images.

    Features are standardised by the training images'; more than 1,024 are first reduced to 256 principal components
    of the training images. L2 penalty of C = 1, no search.

    Raises:
        ValueError: Fewer than two classes among the training images.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(train_labels.unique()) < 2:
        raise ValueError("a probe needs training images of at least two classes.")
    d = train.shape[1]
    steps, reduced = [], ""
    if d > PROBE_FEATURES:
        kept = min(PROBE_REDUCED, len(train) - 1)
        steps.append(PCA(kept, svd_solver="randomized", random_state=0))
        reduced = f" reduced to {kept} principal components"
    model = make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.numpy(), train_labels.numpy())
    stopped = ", stopped before it converged" if any(w.category is ConvergenceWarning for w in caught) else ""
    right = np.asarray(model.predict(test.numpy())) == labels.numpy()
    note = f"logistic regression on {d:,} numbers{reduced}, {len(train):,} training images{stopped}"
    return Probe(torch.from_numpy(right).float(), note)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share of n images (Wilson 1927): within [0, 1], and right near its ends."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the two terms are equal but for rounding.
    return max(0.0, centre - half) if share > 0 else 0.0, min(1.0, centre + half) if share < 1 else 1.0
