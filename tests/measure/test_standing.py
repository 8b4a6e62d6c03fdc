from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ectype.measure.evaluation import Evaluation, Figure
from ectype.measure.standing import sentences, standings


def judged(**values: tuple[float, float, float]) -> Evaluation:
    """An evaluation of figures that are better when higher: name → value and its interval."""
    figures = [
        Figure(name, value, "g", low=low, high=high, better="higher") for name, (value, low, high) in values.items()
    ]
    return Evaluation("none", 1, 1, None, 10, 10, 0, [*figures, Figure("size", 3.0, "g")], {}, {}, [])


def test_one_seed_each_is_told_apart_where_intervals_do_not_meet() -> None:
    found = standings(
        {
            "a": [judged(near=(2, 1, 3), far=(9, 8, 10))],
            "b": [judged(near=(4, 2.5, 5), far=(5, 4, 6))],
            "c": [judged(near=(3, 2, 4))],
        }
    )
    near, far = found
    assert [standing.name for standing in found] == ["near", "far"], "what is better neither way does not stand"
    assert near.apart("a", "b") is None
    assert near.clear is None
    assert far.apart("a", "b") == (2, 6)
    assert far.clear == "a"
    assert set(far.values) == {"a", "b"}
    said = sentences(found, ["a", "b", "c"])
    assert said == [
        "near: a, b and c cannot be told apart.",
        "far: a (9) is better than b (5, by 2 to 6). c has no such figure.",
    ]


def test_several_seeds_are_told_apart_by_welch() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(mean, 1, 5) for mean in (10, 4))
    level = one[::-1] - 0.1
    arms = {
        name: [judged(x=(float(v), v - 9, v + 9)) for v in values]
        for name, values in (("one", one), ("other", other), ("level", level))
    }
    (standing,) = standings(arms)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert standing.apart("one", "other") == pytest.approx((expected.low, expected.high))
    assert standing.apart("one", "level") is None
    value = standing.values["one"]
    assert (value.low, value.high) == pytest.approx(stats.t.interval(0.95, 4, one.mean(), stats.sem(one)))
    (said,) = sentences([standing], list(arms))
    assert "is better than other (" in said
    assert "cannot be told apart from" in said


def test_nothing_is_claimed_of_equals_about_as_often_as_promised() -> None:
    """The rate of false claims between two arms that are alike is at most one in twenty, but for chance."""
    rng = np.random.default_rng(1)
    claims = 0
    for _ in range(400):
        arms = {name: [judged(x=(float(v), v, v)) for v in rng.normal(0, 1, 3)] for name in "ab"}
        claims += standings(arms)[0].apart("a", "b") is not None
    assert claims / 400 < 0.08


def test_alike_seeds_and_missing_ones() -> None:
    arms = {"a": [judged(x=(1, 1, 1))] * 3, "b": [judged(x=(2, 2, 2))] * 3, "c": []}
    (standing,) = standings(arms)
    assert standing.apart("b", "a") == (1, 1)
    assert sentences([standing], ["a", "b", "c"]) == ["x: b (2) is better than a (1, by 1). c has no such figure."]
    uneven = {"a": [judged(x=(1, 0, 2)), judged(y=(1, 0, 2))], "b": [judged(x=(1, 0, 2))]}
    assert list(standings(uneven)[0].values) == ["b"], "a mean over some of the seeds is not that of all"
