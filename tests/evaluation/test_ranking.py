from __future__ import annotations

import math

import pytest

from ectype.evaluation.comparison_stats import compare_figures
from ectype.evaluation.figure_names import clip_to_range
from ectype.evaluation.figures import Evaluation, Figure
from ectype.evaluation.ranking import best_models_sentence, ranking_sentences


def evaluation(*figures: Figure) -> Evaluation:
    return Evaluation("none", 1, 4, 2, 10, 10, 0, list(figures), {}, {}, [])


def psnr(value: float, half: float = 0.1) -> Figure:
    return Figure("psnr", value, "reconstruction", "dB", value - half, value + half, 10, "higher")


def test_arms_that_do_not_differ_share_a_rank() -> None:
    arms = {"a": psnr(20.0), "b": psnr(25.0), "c": psnr(24.98), "d": psnr(10.0)}
    found = compare_figures({name: [evaluation(figure)] for name, figure in arms.items()})
    assert found[0].ranks == [["b", "c"], ["a"], ["d"]]
    expected = "Reconstruction, by PSNR (higher is better): 1. b (25 dB), c (24.98 dB); 2. a (20 dB); 3. d (10 dB)"
    assert ranking_sentences(found, list(arms)) == [f"{expected}."]
    assert ranking_sentences(found, [*arms, "e"]) == [f"{expected}; without this figure: e."]


def test_one_sentence_says_which_models_are_best() -> None:
    arms = {"a": psnr(20.0), "b": psnr(25.0), "c": psnr(24.98)}
    found = compare_figures({name: [evaluation(figure)] for name, figure in arms.items()})
    assert best_models_sentence(found) == "b and c are best at reconstruction (PSNR 25 and 24.98 dB)."
    two = compare_figures({name: [evaluation(arms[name])] for name in ("b", "c")})
    assert best_models_sentence(two) == "No model is clearly best at reconstruction."
    assert best_models_sentence(compare_figures({"a": [evaluation(arms["a"])]})) == ""


def test_what_cannot_be_compared_is_not_ranked() -> None:
    alike = {name: [evaluation(psnr(value))] for name, value in {"a": 20.0, "b": 20.01}.items()}
    (said,) = ranking_sentences(compare_figures(alike), ["a", "b"])
    assert "no significant difference between b (20.01 dB), a (20 dB)." in said
    assert ranking_sentences(compare_figures(alike, comparable=False), ["a", "b"]) == []
    assert ranking_sentences(compare_figures({"a": alike["a"]}), ["a"]) == []


@pytest.mark.parametrize(
    "key", ["boundary_f1", "membership_auc", "coverage_pixels", "dice_cat", "linear_probe_accuracy"]
)
def test_intervals_of_shares_end_at_0_and_1(key: str) -> None:
    figure = Figure(key, 0.99, "masks", low=0.95, high=1.03, better="higher")
    assert (figure.low, figure.high) == (0.95, 1.0)
    assert Figure(key, 0.01, "masks", low=-0.03, high=0.05).low == 0.0
    # Over two seeds Student's interval is very wide.
    arms = {arm: [evaluation(Figure(key, value, "masks", better="higher")) for value in (0.9, 0.99)] for arm in "ab"}
    for value in compare_figures(arms)[0].values.values():
        assert 0 <= value.low < value.mean < value.high <= 1


def test_other_intervals_and_missing_ends_are_kept() -> None:
    assert clip_to_range("fd_pixels", -1.0, 2.0) == (-1.0, 2.0)
    assert all(map(math.isnan, clip_to_range("boundary_f1", math.nan, math.nan)))
    assert Figure("boundary_f1", 0.5, "masks").low is None
