"""Too small a latent: the code is fully used, and reconstructions still lose much of the images."""

from __future__ import annotations

from typing import Any

from ectype.analysis.diagnose.finding import Advice, Evidence, Finding
from ectype.analysis.run_view import RunView
from ectype.evaluation.baselines import CODE_SIZE_MULTIPLES
from ectype.evaluation.figure_names import pca_key
from ectype.evaluation.figures import Evaluation, format_number
from ectype.evaluation.metrics import codes as coding
from ectype.models.base import is_trained_to_reconstruct

__all__ = ["find_in_run"]

MAX_LOST_FRACTION, SERIOUS_LOST_FRACTION = 0.1, 0.3
"""Fraction of the images' variance that reconstructions may lose before the latent is too small, or far too small."""
TARGET_LOST_FRACTION = 0.05
"""Fraction that the advised size should lose, if the network gains from more dimensions as PCA does."""
MIN_RANK_FRACTION = 0.7
"""Effective rank ÷ dimensions of the code above which the code is fully used."""
MIN_KL_NATS = 0.5
"""KL that every dimension of a code with a posterior must have; a dimension without KL is unused."""
MAX_ERROR_OVER_PCA = 1.1
"""Error ÷ error of PCA with the same dimensions above which the network is to blame, not the size of the code."""
MAX_ERROR_OF_DOUBLED_PCA = 0.9
"""PCA with twice the dimensions must have less than this fraction of the error, or a larger code would not help."""


def find_in_run(view: RunView) -> Finding | None:
    """Report reconstructions that lose what a larger code would keep."""
    figures = view.evaluation
    error, size = figures.get("mse"), figures.code_elements
    # The capacity of a quantized code is not given by its dimensions.
    if error is None or size is None or isinstance(view.model, coding.Quantizes):
        return None
    if not is_trained_to_reconstruct(view.model):
        return None
    total, linear = error.baselines.get("mean_image", 0.0), error.baselines.get(pca_key(size))
    larger = {
        times: value
        for times in CODE_SIZE_MULTIPLES
        if (value := error.baselines.get(pca_key(times * size))) is not None
    }
    doubled = larger.get(CODE_SIZE_MULTIPLES[0])
    if linear is None or doubled is None or total <= 0 or not _is_fully_used(figures, size):
        return None
    lost = error.value / total
    as_good_as_pca = error.value <= MAX_ERROR_OVER_PCA * linear
    if not (lost > MAX_LOST_FRACTION and as_good_as_pca and doubled <= MAX_ERROR_OF_DOUBLED_PCA * linear):
        return None
    times = next((t for t, value in larger.items() if lost * value / linear <= TARGET_LOST_FRACTION), max(larger))
    # If even the largest measured size is too small, double it.
    times = 2 * times if lost * larger[times] / linear > 2 * TARGET_LOST_FRACTION else times
    original = view.images(view.chosen(8, "small latent"))
    return Finding(
        "latent too small",
        "serious" if lost > SERIOUS_LOST_FRACTION else "warning",
        f"reconstructions lose {lost:.0%} of the variance of images, all {size:,} dimensions of the code are used, and "
        "PCA with twice as many dimensions loses clearly less: the code is too small",
        [
            Evidence("MSE", error.value, f"mean image {format_number(total)}"),
            Evidence(f"MSE of PCA of {size:,}", linear),
            *(Evidence(f"MSE of PCA of {t * size:,}", value) for t, value in larger.items()),
        ],
        _advice(view, times),
        {"images": original, "reconstructions": view.model.reconstruct(original)},
        headline=f"The latent is too small: reconstructions lose {lost:.0%} of the variance of images",
    )


def _is_fully_used(figures: Evaluation, size: int) -> bool:
    """Return whether all dimensions of the code are in use."""
    if (kl := figures.series.get("kl_per_dimension")) is not None:
        return len(kl) == size and kl[-1] >= MIN_KL_NATS
    rank = figures.get("effective_rank")
    return rank is not None and rank.value >= MIN_RANK_FRACTION * min(size, (rank.n or size + 1) - 1)


def _advice(view: RunView, times: int) -> list[Advice]:
    """Advise a latent that is this many times as large; of a map, more channels."""
    model = view.recipe.model
    net = getattr(model, "net", None)
    changes: dict[str, Any] = {}
    if (shapes := getattr(model, "latents", None)) is not None:
        changes = {"model.latents": [times * shapes[0], *shapes[1:]]}
    elif (latent := getattr(net, "latent", None)) is not None:
        changes = {"model.net.latent": [times * latent[0], *latent[1:]]}
    else:
        for key in ("latent_dim", "latent_channels"):
            if (dimensions := getattr(net, key, None)) is not None:
                changes = {f"model.net.{key}": times * dimensions}
                break
    return [Advice("a larger latent", "the loss of variance should fall as it does for PCA", changes)]
