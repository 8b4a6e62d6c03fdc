from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ectype.evaluation.comparison_stats import compare_figures, comparison_sentences, multiple_comparison_note
from ectype.evaluation.figures import Evaluation, Figure


def judged(**values: tuple[float, float, float]) -> Evaluation:
    """An evaluation of figures that are better when higher: name → value and its interval."""
    return of(
        [Figure(name, value, "g", low=low, high=high, better="higher") for name, (value, low, high) in values.items()]
    )


def of(figures: list[Figure]) -> Evaluation:
    return Evaluation("none", 1, 1, None, 10, 10, 0, [*figures, Figure("size", 3.0, "g")], {}, {}, [])


def test_one_seed_each_is_told_apart_by_intervals_over_test_images() -> None:
    found = compare_figures(
        {
            "a": [judged(near=(2, 1, 3), far=(9, 8, 10))],
            "b": [judged(near=(4, 2.5, 5), far=(5, 4, 6))],
            "c": [judged(near=(3, 2, 4))],
        }
    )
    near, far = found
    assert [standing.key for standing in found] == ["near", "far"], "what is better neither way does not stand"
    assert near.difference("a", "b") is None
    assert near.winner is None
    assert far.difference("a", "b") == pytest.approx((4 - 2**0.5, 4 + 2**0.5))
    assert far.winner == "a"
    assert set(far.values) == {"a", "b"}
    said = comparison_sentences(found, ["a", "b", "c"])
    assert said == [
        "near: a, b and c do not differ significantly.",
        "far: a (9) is better than b (5, by 2.586 to 5.414). c has no such figure.",
    ]


def test_several_seeds_are_told_apart_as_by_welch_but_all_pairs_at_once() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(mean, 1, 5) for mean in (10, 4))
    level = one[::-1] - 0.1
    arms = {
        name: [judged(x=(float(v), v - 9, v + 9)) for v in values]
        for name, values in (("one", one), ("other", other), ("level", level))
    }
    (standing,) = compare_figures(arms)
    welch = stats.ttest_ind(one, other, equal_var=False)
    pair = compare_figures({name: arms[name] for name in ("one", "other")})[0]
    alone = welch.confidence_interval(0.95)
    assert pair.difference("one", "other") == pytest.approx((alone.low, alone.high))
    error = np.sqrt(one.var(ddof=1) / 5 + other.var(ddof=1) / 5)
    wide = stats.studentized_range.ppf(0.95, 3, np.floor(4 * welch.df) / 4) / 2**0.5 * error
    apart = one.mean() - other.mean()
    assert standing.difference("one", "other") == pytest.approx((apart - wide, apart + wide))
    assert standing.difference("one", "level") is None
    value = standing.values["one"]
    assert (value.low, value.high) == pytest.approx(stats.t.interval(0.95, 4, one.mean(), stats.sem(one)))
    (said,) = comparison_sentences([standing], list(arms))
    assert "is better than other (" in said
    assert "its difference from level is not significant" in said


def test_nothing_is_claimed_of_equals_about_as_often_as_promised() -> None:
    """Pages that claim anything of arms that are alike are at most one in twenty, but for chance, however many arms."""
    rng = np.random.default_rng(1)
    for names, seeds in (("ab", 3), ("abcdef", 5), ("abcd", 1)):
        claims = 0
        for _ in range(300):
            arms = {name: [judged(x=(float(v), v - 1.96, v + 1.96)) for v in rng.normal(0, 1, seeds)] for name in names}
            claims += "better" in comparison_sentences(compare_figures(arms), list(names))[0]
        assert claims / 300 < 0.085, names


def test_alike_seeds_and_missing_ones() -> None:
    arms = {"a": [judged(x=(1, 1, 1))] * 3, "b": [judged(x=(2, 2, 2))] * 3, "c": []}
    (standing,) = compare_figures(arms)
    assert standing.difference("b", "a") is None, "seeds that agree by chance do not say how far they vary"
    assert comparison_sentences([standing], ["a", "b", "c"]) == [
        "x: a and b do not differ significantly. c has no such figure."
    ]
    uneven = {"a": [judged(x=(1, 0, 2)), judged(y=(1, 0, 2))], "b": [judged(x=(1, 0, 2))]}
    assert list(compare_figures(uneven)[0].values) == ["b"], "a mean over some of the seeds is not that of all"


def test_one_seed_is_not_weighed_against_several() -> None:
    arms = {"a": [judged(x=(30, 29.9, 30.1))], "b": [judged(x=(v, v - 0.1, v + 0.1)) for v in (29.0, 29.1, 29.2)]}
    assert compare_figures(arms)[0].difference("a", "b") is None


def test_figures_of_one_name_are_weighed_among_their_kind_only() -> None:
    kinds = {
        arm: [of([Figure("log_p", value, "g", low=value - 1, high=value + 1, better="higher", comparable_within=kind)])]
        for arm, value, kind in (("a", 400.0, "density"), ("b", -1000.0, "probability"), ("c", 300.0, "density"))
    }
    (mixed,) = compare_figures(kinds)
    assert (mixed.comparable, mixed.winner, comparison_sentences([mixed], list(kinds))) == (False, None, [])
    (alike,) = compare_figures({arm: kinds[arm] for arm in "ac"})
    assert alike.winner == "a"


def test_what_stands_beside_is_that_of_all_arms() -> None:
    arms = {
        str(k): [of([Figure("psnr", 20.0, "g", better="higher", baselines={"mean_image": 9.0, f"pca_{k}": 10.0 + k})])]
        for k in (2, 8)
    }
    assert compare_figures(arms)[0].baselines == {"mean_image": 9.0, "pca_2": 12.0, "pca_8": 18.0}


def test_how_often_sentences_err_is_said() -> None:
    arms = {name: [judged(x=(1, 0, 2), y=(1, 0, 2))] for name in "ab"}
    assert "With 2 figures, up to 0.1 of them" in multiple_comparison_note(compare_figures(arms))
    assert multiple_comparison_note(compare_figures({"a": arms["a"]})) == ""
