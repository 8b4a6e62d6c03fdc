"""Intervals against formulas where there are some, and against draws where there are none."""

import math

import pytest
import torch

from ectype.core.errors import DataError
from ectype.evaluation.metrics.frechet_kernel import frechet, kernel_distance, moments
from ectype.evaluation.metrics.intervals import jackknife


def between(x: torch.Tensor, y: torch.Tensor) -> float:
    return frechet(moments(x), moments(y))


DRAWS = {between: 160, kernel_distance: 80}
"""At a coverage of 95% the standard error over so many draws is 1.7% and 2.4%."""


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def coverage(statistic, n: int, d: int, shift: float) -> float:
    """How often the interval holds the mean of the statistic over all draws."""
    draws = DRAWS[statistic]
    pairs = [(normal(n, d, 2 * i), normal(n, d, 2 * i + 1, shift)) for i in range(draws)]
    truth = sum(statistic(*pair) for pair in pairs) / draws
    return sum(low <= truth <= high for low, high in (jackknife(statistic, pair) for pair in pairs)) / draws


def test_interval_of_a_mean_is_its_standard_error():
    x = normal(400, 1, 0).double()
    low, high = jackknife(lambda a: float(a.mean()), [x], groups=400)
    assert (low + high) / 2 == pytest.approx(float(x.mean()))
    assert (high - low) / 2 == pytest.approx(1.96 * float(x.std()) / 20, rel=1e-9)


def test_variances_of_two_sets_add_up():
    x, y = normal(90, 1, 0).double(), 3 * normal(50, 1, 1).double()
    low, high = jackknife(lambda a, b: float(a.mean() - b.mean()), [x, y], groups=20)
    parts = [jackknife(lambda a: float(a.mean()), [x], 20), jackknife(lambda a: float(a.mean()), [y], 20)]
    assert (high - low) ** 2 == pytest.approx(sum((high - low) ** 2 for low, high in parts), rel=0.5)
    assert low < float(x.mean() - y.mean()) < high


def test_groups_are_random_so_that_sorted_images_change_nothing():
    x = normal(2000, 1, 0).double().sort(0).values
    widths = [high - low for low, high in (jackknife(lambda a: float(a.mean()), [x], seed=s) for s in range(20))]
    assert sum(widths) / 20 == pytest.approx(2 * 1.96 * float(x.std()) / math.sqrt(2000), rel=0.15)


def test_the_same_seed_gives_the_same_interval():
    x, y = normal(60, 3, 0), normal(60, 3, 1)
    assert jackknife(between, [x, y]) == jackknife(between, [x, y])
    assert jackknife(between, [x, y]) != jackknife(between, [x, y], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("statistic, n", [(between, 120), (kernel_distance, 60)])
def test_interval_holds_the_expected_distance_nineteen_times_in_twenty(statistic, n):
    assert coverage(statistic, n, 4, shift=0.6) == pytest.approx(0.95, abs=0.045)


@pytest.mark.slow
@pytest.mark.parametrize("statistic, n", [(between, 120), (kernel_distance, 60)])
def test_interval_is_wide_rather_than_narrow_where_both_sets_have_one_distribution(statistic, n):
    assert coverage(statistic, n, 4, shift=0) > 0.93


def test_too_few_images_for_the_groups_are_refused():
    with pytest.raises(DataError, match="12 images cannot be cut into 20 groups"):
        jackknife(between, [normal(50, 2, 0), normal(12, 2, 1)])
    with pytest.raises(DataError, match="1 groups"):
        jackknife(between, [normal(50, 2, 0)], groups=1)
