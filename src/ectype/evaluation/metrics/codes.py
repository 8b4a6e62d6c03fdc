"""Metrics of a model's codes: the directions they use, active dimensions, and how well they separate classes."""

from __future__ import annotations

import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.models.bottlenecks import Posterior

__all__ = [
    "MAX_PROBE_FEATURES",
    "MIN_ACTIVE_VARIANCE",
    "PROBE_COMPONENTS",
    "HasPosterior",
    "Probe",
    "Quantizes",
    "active_units",
    "effective_rank",
    "linear_probe",
    "singular_values",
]

MIN_ACTIVE_VARIANCE = 0.01
"""Variance over images above which the posterior mean of a latent dimension counts as active."""
MAX_PROBE_FEATURES = 1024
"""Maximum number of features of a probe; more are reduced to `PROBE_COMPONENTS` principal components."""
PROBE_COMPONENTS = 256


@runtime_checkable
class HasPosterior(Protocol):
    """A model that gives a distribution of codes for each image."""

    def posterior(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """Return q(z|x) of each image."""
        ...

    def sample_posterior(
        self, image: Float[Tensor, "b c h w"], k: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "k b c h w"]:
        """Return `k` images decoded from samples of q(z|x), for each image."""
        ...


@runtime_checkable
class Quantizes(Protocol):
    """A model with finitely many codes."""

    @property
    def codebook_size(self) -> int:
        """Number of values of an index."""
        ...

    def indices(self, image: Float[Tensor, "b c h w"]) -> Int[Tensor, " b *code"]:
        """Return the code of each image as indices in [0, codebook_size)."""
        ...


def active_units(means: Float[Tensor, "n d"]) -> int:
    """Count the latent dimensions with Var_x(E_q[z|x]) > 0.01 (Burda et al. 2016, section 5.2).

    Args:
        means: Posterior means of n ≥ 2 images.

    >>> active_units(torch.tensor([[0.0, 5.0], [1.0, 5.0]]))
    1
    """
    return int((means.double().var(0) > MIN_ACTIVE_VARIANCE).sum())


def singular_values(codes: Float[Tensor, "n d"]) -> Float[Tensor, " r"]:
    """Compute the singular values of the centered codes, largest first, r = min(n, d)."""
    centered = codes.double() - codes.double().mean(0)
    return torch.linalg.svdvals(centered)


def effective_rank(codes: Float[Tensor, "n d"]) -> float:
    """Compute the effective rank, the number of directions that the codes use evenly (Roy and Vetterli 2007, eq. 2).

    It is exp of the entropy of the singular values of the centered codes divided by their sum: of the singular values,
    as in the paper, not of their squares, the variances. It lies between 1 and min(n − 1, d), and is 0 where all codes
    are identical.

    >>> codes = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(effective_rank(codes), 6), round(effective_rank(codes[:2]), 6)
    (2.0, 1.0)
    """
    values = singular_values(codes)
    # What remains of a constant column after centering is rounding, which must not count as a direction.
    rounding = torch.finfo(torch.float64).eps * max(codes.shape) * float(torch.linalg.norm(codes.double()))
    values = values[values > rounding]
    if len(values) == 0:
        return 0.0
    fractions = values / values.sum()
    return float(torch.exp(-(fractions * fractions.log()).sum()))


class Probe(NamedTuple):
    """Result of a linear probe."""

    correct: Float[Tensor, " n"]
    """1 for each test image that was classified correctly, else 0."""
    note: str
    """Description of what was fitted."""

    @property
    def accuracy(self) -> float:
        """Fraction of test images that were classified correctly."""
        return float(self.correct.double().mean())


def linear_probe(
    train: Float[Tensor, "n d"], train_labels: Int[Tensor, " n"], test: Float[Tensor, "m d"], labels: Int[Tensor, " m"]
) -> Probe:
    """Fit a logistic regression on features of training images and apply it to test images.

    Features are standardized with the training images' mean and standard deviation. More than 1,024 features are first
    reduced to 256 principal components of the training images. The L2 penalty is C = 1, without a search.

    Args:
        train: Features of training images.
        train_labels: Their classes.
        test: Features of test images.
        labels: Their classes.

    Raises:
        ValueError: The training images have fewer than two classes.

    >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
    >>> linear_probe(x, y, x, y).accuracy
    1.0
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
    if d > MAX_PROBE_FEATURES:
        components = min(PROBE_COMPONENTS, len(train) - 1)
        steps.append(PCA(components, svd_solver="randomized", random_state=0))
        reduced = f" reduced to {components} principal components"
    model = make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.numpy(), train_labels.numpy())
    stopped = ", stopped before it converged" if any(w.category is ConvergenceWarning for w in caught) else ""
    correct = np.asarray(model.predict(test.numpy())) == labels.numpy()
    note = f"logistic regression on {d:,} features{reduced}, {len(train):,} training images{stopped}"
    return Probe(torch.from_numpy(correct).float(), note)
