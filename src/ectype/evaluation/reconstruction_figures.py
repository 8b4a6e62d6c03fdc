"""Figures of reconstructions and restored images, compared with simple baselines."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ectype.evaluation.baselines import Baselines
from ectype.evaluation.figure_names import pca_key
from ectype.evaluation.figures import Figure, mean_figure
from ectype.evaluation.linear_filter import SIDE_PX
from ectype.evaluation.metrics.image_errors import MAX_PSNR_DB
from ectype.evaluation.metrics.intervals import Estimate
from ectype.evaluation.metrics.output_variance import DETAIL_SIGMA_PX, OutputVariance, detail_ratio
from ectype.losses.ssim import ssim_radius
from ectype.models.corruptions import CorruptionConfig

__all__ = ["denoising_figures", "reconstruction_figures"]

GROUP = "reconstruction"
ROWS: tuple[tuple[str, Literal["lower", "higher"], str], ...] = (
    ("mse", "lower", ""),
    ("psnr", "higher", "dB"),
    ("ssim", "higher", ""),
)
"""Metric, direction that is good, and unit."""


def reconstruction_figures(
    values: dict[str, Tensor],
    baselines: Baselines,
    variance: OutputVariance,
    size: tuple[int, int],
    code_elements: int | None,
) -> list[Figure]:
    """Return the figures of reconstructions.

    Args:
        values: Key → value of each test image [n]; baselines as `BASELINE/METRIC`.
        baselines: The baselines that were fitted.
        variance: Variance of all reconstructions and images.
        size: Height and width of an image.
        code_elements: Elements of a code; None for a model without codes.
    """
    exact = int((values["psnr"] >= MAX_PSNR_DB).sum())
    notes = {
        "mse": f"pixels in [0, 1]; baselines are fitted on {baselines.fitted_on:,} training images",
        "psnr": f"{exact} exact copies count as {MAX_PSNR_DB:g} dB" if exact else "",
        "ssim": "" if ssim_radius(size) == 5 else "window smaller than the usual 11 pixels",
    }
    linear = list(baselines.linear.values())
    if linear:
        notes["mse"] += f"; PCA {linear[0].solver}, clamped to [0, 1]"
    figures = []
    for key, better, unit in ROWS:
        known = {each: float(values[f"{each}/{key}"].mean()) for each in baselines.keys if f"{each}/{key}" in values}
        shown = mean_figure(key, values[key], GROUP, better=better, unit=unit, baselines=known, note=notes[key])
        figures.append(shown)
    if linear and code_elements is not None:
        figures.append(
            mean_figure(
                "psnr_above_pca",
                values["psnr"] - values[f"{pca_key(code_elements)}/psnr"],
                GROUP,
                better="higher",
                unit="dB",
                note="difference image by image to PCA of as many dimensions; above 0 the network is better",
                comparable_within=pca_key(code_elements),
            )
        )
    if (found := variance.ratio()) is not None:
        note = "variance over images, summed over elements; 0: all outputs are equal, 1: they vary as much as images"
        figures.append(_ratio_figure("output_variance", found, note))
    if (found := detail_ratio(values["fine_detail"], values["image/fine_detail"])) is not None:
        note = (
            f"energy that a Gaussian blur of {DETAIL_SIGMA_PX:g} pixel removes, outputs ÷ images; near 0 for blur, "
            "above 1 for noise"
        )
        figures.append(_ratio_figure("fine_detail", found, note))
    return figures


def _ratio_figure(key: str, found: Estimate, note: str) -> Figure:
    return Figure(key, found.value, GROUP, low=found.low, high=found.high, n=found.n, note=note)


def denoising_figures(values: dict[str, Tensor], corruption: CorruptionConfig) -> list[Figure]:
    """Return PSNR and SSIM of restored images.

    Args:
        values: `restored/METRIC`, `corrupted_input/METRIC` and `linear_filter/METRIC` → value of each test image [n].
        corruption: What the model was trained to undo.
    """
    settings = ", ".join(f"{k} {v}" for k, v in corruption.model_dump().items() if k != "kind")
    note = f"against the clean image; corruption: {corruption.kind}, {settings}, not clipped"
    note += f"; the filter of {SIDE_PX}×{SIDE_PX} pixels is fitted on training images"
    return [
        mean_figure(
            f"{metric}_restored",
            values[f"restored/{metric}"],
            "denoising",
            better="higher",
            unit=unit,
            baselines={key: float(values[f"{key}/{metric}"].mean()) for key in ("corrupted_input", "linear_filter")},
            note=note,
        )
        for metric, unit in (("psnr", "dB"), ("ssim", ""))
    ]
