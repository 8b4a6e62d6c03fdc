"""Your own metrics: registered by a key, computed in every evaluation, shown and compared like the built-in ones."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ectype.core.errors import EctypeWarning, RecipeError
from ectype.evaluation import figure_names
from ectype.evaluation.figures import Figure
from ectype.evaluation.metrics.intervals import jackknife, mean_interval

__all__ = [
    "RegisteredMetric",
    "failed_remarks",
    "metric_digests",
    "output_figures",
    "output_values",
    "register_metric",
    "registered_metrics",
    "sample_figures",
]

PREFIX = "registered/"
"""Prefix of the names of per-image values of registered metrics."""
JACKKNIFE_GROUPS = 10


class RegisteredMetric(NamedTuple):
    """A user's metric."""

    key: str
    function: Callable[[Tensor, Tensor], Any]
    on: Literal["outputs", "samples"]
    better: Literal["lower", "higher"] | None
    group: str | None
    """None: where the model's own figures are."""
    unit: str
    note: str


_metrics: dict[str, RegisteredMetric] = {}


def register_metric(
    key: str,
    function: Any = None,
    *,
    name: str = "",
    better: Literal["lower", "higher"] | None = None,
    group: str | None = None,
    on: Literal["outputs", "samples"] | None = None,
    unit: str = "",
    note: str = "",
) -> Any:
    """Compute your own metric in every evaluation from now on.

    There are two kinds:

    - on outputs, `function(images, outputs)` returns one value per image [n]. `images` [n, c, h, w] are what the
      outputs should equal: test images for a model that reconstructs, the other picture for one that translates, class
      indices [n, h, w] for one that segments (255 counts for nothing), whose outputs are the probabilities
      [n, k, h, w]. The figure is the mean over all test images, with its 95% interval. The function is called for one
      batch at a time.
    - on samples, `function(real, samples)` returns one number for two sets of images [n, c, h, w]. Its 95% interval is
      by the delete-a-group jackknife over both sets, and its baseline is the number for training images in place of
      samples.

    All images are in [0, 1]. A metric that fails is left out, with a warning and a remark in the report. Figures that
    are stored with a run are measured again if a metric is new or its code has changed. Register metrics in a file
    named by `ECTYPE_PLUGINS` to have them on the command line too.

    Args:
        key: Lower-case words with underscores: what `run.evaluate()[key]` finds the figure by.
        function: The metric. Leave it out to use `register_metric` as a decorator.
        name: What tables and reports call it; the key if not given.
        better: The direction that is good. Without one, the figure is shown but not compared.
        group: The part of the table: reconstruction, pictures, masks, generation, or your own. Not given: where the
            model's own figures are.
        on: outputs or samples; samples if the group is generation, else outputs.
        unit: Such as dB.
        note: How the value is computed, for the report.

    Returns:
        The function, unchanged.

    Raises:
        RecipeError: A key that is invalid or taken by a built-in figure, or an unknown direction.

    Example:
        >>> @register_metric("brightness_error", name="brightness error", better="lower")
        ... def brightness_error(images, outputs):
        ...     return (images.mean((1, 2, 3)) - outputs.mean((1, 2, 3))).abs()
        >>> registered_metrics()
        ['brightness_error']
        >>> values = output_values(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
        >>> [figure.value for figure in output_figures(values, "reconstruction")]
        [1.0]
    """
    if function is None:
        return lambda own: register_metric(key, own, name=name, better=better, group=group, on=on, unit=unit, note=note)
    if not isinstance(key, str) or not figure_names.is_key(key):
        raise RecipeError(f"a metric cannot be registered as {key!r}: use lower-case words with underscores.")
    if key not in _metrics and (key in figure_names.NAMES or figure_names.metric_of(key) != key):
        raise RecipeError(f"'{key}' is the key of a built-in figure: choose another one.")
    if better not in (None, "lower", "higher") or on not in (None, "outputs", "samples"):
        raise RecipeError(f"metric '{key}': better must be lower or higher, and on must be outputs or samples.")
    if not callable(function):
        raise RecipeError(f"metric '{key}' is of type {type(function).__name__}: pass a function of two tensors.")
    figure_names.NAMES[key] = name or key.replace("_", " ")
    kind = on or ("samples" if group == "generation" else "outputs")
    _metrics[key] = RegisteredMetric(key, function, kind, better, group, unit, note)
    return function


def registered_metrics() -> list[str]:
    """Return the keys of all registered metrics, sorted."""
    return sorted(_metrics)


def metric_digests() -> dict[str, str]:
    """Return a hash of each metric's code and settings, by which stored figures are known to be out of date."""
    found = {}
    for key, metric in _metrics.items():
        held = [_code(metric.function), figure_names.display_name(key), *metric[2:]]
        found[key] = hashlib.sha256(repr(held).encode()).hexdigest()[:16]
    return found


def _code(function: Callable[..., Any]) -> str:
    """The text of a function, or what identifies it where there is no text."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return code.co_code.hex() if code is not None else type(function).__qualname__


def output_values(images: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Return the values [n] of one batch of each metric on outputs, on the CPU; NaN where a metric failed."""
    found = {}
    for key, metric in _metrics.items():
        if metric.on == "outputs":
            values = _called(metric, images, outputs)
            if values is not None and values.shape != (len(images),):
                _warn(key, f"it returned shape {list(values.shape)} for {len(images)} images, not [{len(images)}]")
                values = None
            if values is None:
                values = torch.full((len(images),), torch.nan)
            found[PREFIX + key] = values.detach().double().cpu()
    return found


def output_figures(values: Mapping[str, Tensor], group: str) -> list[Figure]:
    """Return the figures of values that `output_values` found, of all test images together.

    Args:
        values: By name; those of other figures are left alone.
        group: Where figures go whose metric names no group.
    """
    figures = []
    for key, metric in _metrics.items():
        found = values.get(PREFIX + key)
        found = None if found is None else found[found.isfinite()]
        if found is None or not len(found):
            continue
        low, high = mean_interval(found)
        figures.append(_figure(metric, float(found.mean()), low, high, len(found), group))
    return figures


def sample_figures(real: Tensor, samples: Tensor, train: Tensor, *, seed: int) -> list[Figure]:
    """Return the figures of all metrics on samples.

    Args:
        real: Test images [n, c, h, w].
        samples: As many samples.
        train: As many training images, for the baseline.
        seed: Of the groups of the jackknife.
    """
    figures = []
    for metric in _metrics.values():
        if metric.on != "samples" or (value := _number(metric, real, samples)) is None:
            continue
        low = high = None
        if min(len(real), len(samples)) >= JACKKNIFE_GROUPS:

            def statistic(x: Tensor, y: Tensor, metric: RegisteredMetric = metric) -> float:
                found = _number(metric, x, y)
                return float("nan") if found is None else found

            low, high = jackknife(statistic, [real, samples], JACKKNIFE_GROUPS, seed=seed)
        baseline = _number(metric, real, train)
        baselines = {} if baseline is None else {"real_images": baseline}
        figures.append(_figure(metric, value, low, high, len(real), "generation", baselines))
    return figures


def _figure(
    metric: RegisteredMetric,
    value: float,
    low: float | None,
    high: float | None,
    n: int,
    group: str,
    baselines: dict[str, float] | None = None,
) -> Figure:
    return Figure(
        metric.key,
        value,
        metric.group or group,
        metric.unit,
        low,
        high,
        n,
        metric.better,
        baselines or {},
        metric.note or "registered with ectype.register_metric",
    )


def _number(metric: RegisteredMetric, real: Tensor, samples: Tensor) -> float | None:
    found = _called(metric, real, samples)
    if found is not None and found.numel() != 1:
        _warn(metric.key, f"it returned shape {list(found.shape)}, not one number")
        return None
    return None if found is None else float(found)


def _called(metric: RegisteredMetric, one: Tensor, other: Tensor) -> Tensor | None:
    """What a metric returns, as a tensor; None, with a warning, where it fails."""
    try:
        found = metric.function(one, other)
        return found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found, np.float64))
    except Exception as error:  # a user's own code
        _warn(metric.key, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None


def _warn(key: str, reason: str) -> None:
    warnings.warn(f"metric '{key}' is left out ({reason}).", EctypeWarning, stacklevel=2)


def failed_remarks(values: Mapping[str, Tensor]) -> list[str]:
    """Return a remark for each metric on outputs that has no value for some test images."""
    remarks = []
    for key in _metrics:
        found = values.get(PREFIX + key)
        if found is not None and (failed := int((~found.isfinite()).sum())):
            remarks.append(f"Metric '{key}' has no finite value for {failed:,} of {len(found):,} test images.")
    return remarks
