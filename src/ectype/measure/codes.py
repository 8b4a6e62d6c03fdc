"""What is in a model's codes: how many directions they use, how many numbers carry anything, what can be read off."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.models.bottlenecks import Posterior

__all__ = [
    "ACTIVE",
    "HasPosterior",
    "Probe",
    "active_units",
    "effective_rank",
    "linear_probe",
    "singular_values",
    "wilson",
]

ACTIVE = 0.01
"""Variance over images from which the posterior mean of a code's number counts as active."""
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
    return max(0.0, centre - half), min(1.0, centre + half)
