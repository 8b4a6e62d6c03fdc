"""One sentence for each question that a comparison answers: which models are best at reconstruction, samples, codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ectype.evaluation.comparison_stats import FigureComparison
from ectype.evaluation.figure_names import metric_of
from ectype.evaluation.figures import format_number

__all__ = ["best_models_sentence", "ranking_sentences"]

QUESTIONS = (
    ("Masks", "masks", ("mean_dice",)),
    ("Output images", "pictures", ("psnr",)),
    ("Reconstruction", "reconstruction", ("psnr",)),
    ("Denoising", "denoising", ("psnr_restored",)),
    ("Samples", "generation", ("fd",)),
    ("Likelihood", "likelihood", ("log_likelihood_iw", "negative_elbo", "loss_plus_kl")),
    ("Codes", "codes", ("linear_probe_accuracy",)),
)
"""Name of a question, the group of its figures, and the metrics that answer it, the first that several models have."""


def ranking_sentences(comparisons: Sequence[FigureComparison], arms: Sequence[str]) -> list[str]:
    """Return one sentence for each question that at least two arms have a comparable figure for.

    Arms that do not differ significantly from the best of a rank share the rank.

    Args:
        comparisons: As `compare_figures` returns them.
        arms: All arms, those without a figure included.
    """
    return [_sentence(question, comparison, arms) for question, comparison in _answers(comparisons)]


def best_models_sentence(comparisons: Sequence[FigureComparison]) -> str:
    """Return one sentence that says which model is best at what; empty if no question can be answered.

    Args:
        comparisons: As `compare_figures` returns them.
    """
    won: dict[tuple[str, ...], list[str]] = {}
    open_questions = []
    for question, comparison in _answers(comparisons):
        ranks = comparison.ranks
        if len(ranks) == 1:
            open_questions.append(question.lower())
            continue
        values = _and([format_number(comparison.values[arm].mean) for arm in ranks[0]])
        text = f"{question.lower()} ({' '.join(filter(None, [comparison.name, values, comparison.unit]))})"
        won.setdefault(tuple(ranks[0]), []).append(text)
    parts = [f"{_and(arms)} {'are' if len(arms) > 1 else 'is'} best at {_and(texts)}" for arms, texts in won.items()]
    if open_questions:
        parts.append(f"no model is clearly best at {_and(open_questions, 'or')}")
    text = "; ".join(parts)
    return f"{text if won else text[:1].upper() + text[1:]}." if text else ""


def _and(words: Sequence[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def _answers(comparisons: Sequence[FigureComparison]) -> Iterator[tuple[str, FigureComparison]]:
    """Yield each question that at least two arms have a comparable figure for, with that figure."""
    for question, group, metrics in QUESTIONS:
        candidates = [each for each in comparisons if each.group == group and each.comparable and len(each.values) > 1]
        found = (each for metric in metrics for each in candidates if metric_of(each.key) == metric)
        if (comparison := next(found, None)) is not None:
            yield question, comparison


def _sentence(question: str, comparison: FigureComparison, arms: Sequence[str]) -> str:
    ranks = comparison.ranks
    unit = f" {comparison.unit}" if comparison.unit else ""
    texts = [", ".join(f"{arm} ({format_number(comparison.values[arm].mean)}{unit})" for arm in rank) for rank in ranks]
    ranking = "; ".join(f"{place}. {text}" for place, text in enumerate(texts, 1))
    if len(ranks) == 1:
        ranking = f"no significant difference between {texts[0]}"
    without = [arm for arm in arms if arm not in comparison.values]
    missing = f"; without this figure: {', '.join(without)}" if without else ""
    return f"{question}, by {comparison.name} ({comparison.better} is better): {ranking}{missing}."
