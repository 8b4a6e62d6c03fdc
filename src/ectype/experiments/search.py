"""Search several keys of a recipe with Optuna (Akiba et al. 2019). Each trial is a run."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from ectype.analysis.results import comparison_page, evaluate, evaluate_on_validation
from ectype.config.recipe import Recipe, parse_overrides
from ectype.core.console import doing, say
from ectype.core.errors import EctypeError, RecipeError, RunError
from ectype.core.escape import write_csv
from ectype.core.files import atomic_file
from ectype.core.optional import optional_import
from ectype.core.random import derive_seed
from ectype.evaluation.comparison_stats import compare_figures
from ectype.evaluation.figure_names import display_name, slug
from ectype.evaluation.figures import Evaluation, Figure, format_number
from ectype.experiments.compare import in_words, values_of
from ectype.experiments.launcher import claim_folder, launch_runs, running_text, terminate_children
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training.run import resolve

if TYPE_CHECKING:
    import optuna

__all__ = ["Knob", "Search", "knobs_of", "search"]

MARK = "study.json"
"""A file that every directory of a search contains."""
MAX_TRIALS_ON_PAGE = 4
"""Trials on the page, the best first."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
MIN_LOG_RATIO = 10.0
"""Ratio of the ends of a range from which it is searched on a logarithmic scale."""


class Knob(NamedTuple):
    """A key that is searched: its choices, or its range."""

    key: str
    choices: tuple[str, ...] = ()
    """Values to choose from; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Return all choices, or both ends of a range, as text."""
        if self.choices:
            return self.choices
        return tuple(str(int(end)) if self.whole else f"{end:.6g}" for end in (self.low, self.high))

    def suggest(self, trial: optuna.Trial) -> str:
        """Return a value for a trial, as text."""
        if self.choices:
            return str(trial.suggest_categorical(self.key, self.choices))
        log = self.low > 0 and self.high / self.low >= MIN_LOG_RATIO
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=log))
        return f"{trial.suggest_float(self.key, self.low, self.high, log=log):.6g}"


class Search(NamedTuple):
    """The result of a search."""

    figure: str
    """Key of the figure that trials were ranked by, on validation images."""
    best: dict[str, Any]
    """Key → value of the best trial."""
    conclusions: list[str]
    page: Path


def knobs_of(words: Sequence[str]) -> tuple[list[Knob], list[str]]:
    """Return the keys that are searched, and the overrides that all trials share.

    Args:
        words: `key=value` texts; `key=2..512` is a range, `key=a,b,c` are choices.

    Raises:
        RecipeError: No key is searched, or a range is invalid.
    """
    knobs, shared = [], []
    for word in words:
        key, _, text = word.partition("=")
        if found := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text.strip()):
            low, high = found.groups()
            ends = float(low), float(high)
            if not ends[0] < ends[1]:
                raise RecipeError(f"{word}: a range goes from the lower value to the higher.")
            whole = all(part.lstrip("+-").isdigit() for part in (low, high))
            knobs.append(Knob(key, (), *ends, whole))
        elif len(choices := values_of(text)) > 1:
            knobs.append(Knob(key, tuple(choices)))
        else:
            shared.append(word)
    if not knobs:
        raise RecipeError("no key has several values: give a range or choices, such as latent_dim=2..512 or net=a,b.")
    return knobs, shared


def search(
    recipe: str,
    knobs: Sequence[Knob],
    data: str | Path,
    out: str | Path,
    *,
    trials: int,
    words: Sequence[str] = (),
    images: str | None = None,
    minutes: float | None = None,
    by: str | None = None,
    storage: str | None = None,
    processes: int = 0,
    quick: bool = False,
    command: str = "",
    console: Console | None = None,
) -> Search:
    """Train `trials` runs, each with values that earlier trials suggest, and write a page about the best.

    Trials are ranked on validation images. The page shows figures of test images, which no choice was based on. If a
    search is killed and called again with the same arguments, it continues, and interrupted runs are finished first.

    Args:
        recipe: A preset or a file.
        knobs: The keys that are searched.
        data: Anything that training accepts.
        out: A directory. It is created or continued.
        trials: Number of trials, without failed ones.
        words: Overrides of all trials.
        images: Budget of each trial, such as `500k`.
        minutes: Budget in time instead.
        by: Key of the figure that trials are ranked by, such as `psnr`; None for the likelihood of models that have
            one, the distance of samples of those that are sampled, Dice of masks, PSNR of all else.
        storage: URL of a database that several machines share; a file in `out` if not given.
        processes: Runs at the same time; 0 for as many as leave two cores to each.
        quick: Measure on fewer images, by fewer samples, and without a bound on the likelihood.
        command: The command that repeats the search, for the page.
        console: Where progress is printed; None prints nothing.

    Raises:
        RecipeError: An invalid recipe, not exactly one budget, or a figure that these models do not have.
        RunError: Optuna is not installed, the storage cannot be used, or no trial finished.
    """
    if (images is None) == (minutes is None):
        raise RecipeError("give one budget for each trial: --images 500k, or --minutes 10.")
    by = None if by is None else slug(by)  # "PSNR" as well as "psnr"
    place, cores = Path(out), os.cpu_count() or 1
    processes = processes or max(1, cores // 2)
    budget = f"train.images={images}" if images is not None else f"train.minutes={minutes:g}"
    shared = {**parse_overrides([*words, budget]), **({"run.evaluation": "quick"} if quick else {})}

    report = partial(say, console)

    def made(values: Mapping[str, str]) -> Recipe:
        return resolve(recipe, data, {"run.threads": max(1, cores // processes), **shared, **values})

    # Invalid values are reported before anything is written: every choice, and both ends of every range.
    seen = set()
    for which in range(max(len(knob.ends) for knob in knobs)):
        end = made({knob.key: knob.ends[min(which, len(knob.ends) - 1)] for knob in knobs}).data
        seen.add((end.size, end.channels, end.min_size, end.split.model_dump_json(), *end.preparation.values()))
    if len(seen) > 1:
        raise RecipeError(
            f"{', '.join(knob.key for knob in knobs)}: figures of images that are prepared or split differently cannot "
            "be compared; fix size, channels, min_size, split, resize, background and binarise, and search other keys."
        )
    open_data(made({knob.key: knob.ends[0] for knob in knobs}).data, console)
    study = _study(place, storage, recipe)
    _same_study(
        study, {"recipe": recipe, "data": str(data), "words": [*words, budget], "knobs": [list(k) for k in knobs]}
    )
    ranked_by = study.user_attrs.get("figure")
    if by is not None and ranked_by not in (None, by):
        raise RunError(f"--by {by}: earlier trials were ranked by {ranked_by}; leave it out, or give another --out.")
    with terminate_children():
        doing(console, lambda: running_text(place, sorted(path.name for path in place.glob("trial-*/"))))
        _run_trials(study, place, processes, trials, knobs, made, by, report, alone=storage is None)
        finished = _finished_trials(study)
        if not finished:
            raise RunError(f"no trial finished: see the .log files in '{place}'.")
        best = [trial for trial in finished if (place / _name(trial)).is_dir()][:MAX_TRIALS_ON_PAGE]
        runs = {
            f"{trial.number}: {_values_text(trial.params)}": RunDir.existing(place / _name(trial)) for trial in best
        }
        found: dict[str, list[Evaluation]] = {name: [evaluate(run)] for name, run in runs.items()}
    figure = study.user_attrs["figure"]
    conclusions = _sentences(study, finished, figure, budget)
    _table(study, place / "trials.csv", knobs, figure)
    page = comparison_page(
        {name: [run] for name, run in runs.items()},
        compare_figures(found),
        conclusions,
        sentence=conclusions[0],
        out=place / "study.html",
        command=command,
    )
    return Search(figure, finished[0].params, conclusions, page)


def _study(place: Path, storage: str | None, recipe: str) -> optuna.Study:
    optuna = optional_import("optuna", "search", "--trials", library="Optuna", error=RunError)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    claim_folder(place, MARK, "study", json.dumps({"recipe": recipe}))
    url = storage or f"sqlite:///{place.resolve() / 'trials.db'}"
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.create_study(storage=url, study_name=f"{place.name}: {recipe}", load_if_exists=True)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        raise RunError(f"--storage {url} cannot be used ({str(error).splitlines()[0]}): check the address.") from None


def _run_trials(
    study: optuna.Study,
    place: Path,
    processes: int,
    trials: int,
    knobs: Sequence[Knob],
    made: Callable[[Mapping[str, str]], Recipe],
    by: str | None,
    report: Callable[[str], None],
    *,
    alone: bool,
) -> None:
    """Run trials until there are enough, interrupted ones first. `alone`: no other machine shares the storage."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    # If several machines share a storage, each continues its own trials; a container has another name at each start.
    here = f"{socket.gethostname()}:{place.resolve()}"
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    waiting = []
    for trial in running:
        if alone and "words" not in trial.user_attrs:  # killed before its values were stored
            study.tell(trial.number, state=TrialState.FAIL)
        elif alone or trial.user_attrs.get("here") == here:
            waiting.append((trial.number, trial.user_attrs["words"]))
    while True:
        done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        others = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) - len(waiting)
        while len(waiting) < min(processes, trials - done - others):
            # Each machine and trial has its own seed, so that no other machine or later start draws the same values.
            known = len(study.get_trials(deepcopy=False))
            study.sampler = TPESampler(seed=derive_seed(0, here, known) % 2**32, multivariate=True, constant_liar=True)
            trial = study.ask()
            words = {knob.key: knob.suggest(trial) for knob in knobs}
            trial.set_user_attr("words", words)
            trial.set_user_attr("here", here)
            waiting.append((trial.number, words))
        if not waiting:
            return
        turn, waiting = waiting[:processes], waiting[processes:]
        recipes = {f"trial-{which:03d}": made(words) for which, words in turn}
        failed = launch_runs(place, recipes, processes, report)
        for which, words in turn:
            name = f"trial-{which:03d}"
            try:
                if name in failed:
                    raise RunError(failed[name])
                figure = _figure(evaluate_on_validation(RunDir.existing(place / name)), by)
            except EctypeError as error:
                if isinstance(error, RecipeError):
                    raise
                study.tell(which, state=TrialState.FAIL)
                report(f"{name}: failed: {error}")
                if len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,))) >= max(3, trials):
                    raise RunError(f"all trials fail, the last with: {error}") from None
                continue
            same = {"figure": figure.key, "comparable_within": figure.comparable_within}
            before = {key: study.user_attrs.get(key, now) for key, now in same.items()}
            if before != same:
                raise RecipeError(
                    f"{name} is ranked by {_with_kind(**same)}, earlier trials by {_with_kind(**before)}, and these "
                    "cannot be compared: give --by a figure that "
                    "all have, or do not search what makes the difference."
                )
            sign = -1.0 if figure.better == "higher" else 1.0
            for key, now in same.items():
                study.set_user_attr(key, now)
            study.set_user_attr("sign", sign)
            study.tell(which, sign * figure.value if math.isfinite(figure.value) else math.inf)
            report(f"{name}: {_values_text(words)}: {figure.name} {figure.text} on validation images")


def _same_study(study: optuna.Study, plan: dict[str, Any]) -> None:
    """Store what is searched, or check that the same was searched there before."""
    text = json.dumps(plan, ensure_ascii=False)
    before = study.user_attrs.get("plan")
    if before is None:
        study.set_user_attr("plan", text)
        return
    if before != text:
        old = json.loads(before)
        keys = "; ".join(
            f"{key} was {old.get(key)!r}, now {plan[key]!r}" for key in plan if json.loads(text)[key] != old.get(key)
        )
        raise RunError(f"--out holds another search ({keys}): restore these values, or give another --out.")


def _name(trial: Any) -> str:
    return f"trial-{trial.number:03d}"


def _figure(found: Evaluation, by: str | None) -> Figure:
    """Return the figure that a trial is ranked by."""
    if by is not None:
        figure = found.get(by)
        if figure is None or figure.better is None:
            have = ", ".join(figure.key for figure in found.figures if figure.better)
            raise RecipeError(f"--by {by}: these models have no such figure that is better one way; have {have}.")
        return figure
    first = {"explicit bound": ["log_likelihood_iw"], "implicit": ["fd"]}.get(found.density, [])
    if (figure := found.first_of(*first, "mean_dice", "psnr", "ssim", "fd")) is None:
        raise RecipeError("these models have no figure to judge them by.")
    return figure


def _with_kind(figure: str, comparable_within: str) -> str:
    """The name of a figure, with what must be equal for two of them to be compared."""
    return f"{display_name(figure)} ({comparable_within})" if comparable_within else display_name(figure)


def _finished_trials(study: optuna.Study) -> list[Any]:
    """Return the finished trials, the best first."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda trial: math.inf if trial.value is None else trial.value)


def _values_text(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def _sentences(study: optuna.Study, finished: Sequence[Any], figure: str, budget: str) -> list[str]:
    sign, best = study.user_attrs["sign"], finished[0]
    sentences = [
        f"Of {len(finished)} trials with {in_words(budget)} each, {_values_text(best.params)} was best "
        f"by {display_name(figure)} on "
        f"validation images: {format_number(sign * best.value)}. One run of each: what is close together may "
        "change places with another seed. The figures below are of test images, which chose nothing."
    ]
    if len(best.params) > 1 and len(finished) >= 10:
        from optuna.importance import get_param_importances

        shares = get_param_importances(study, params=list(best.params))
        influence = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        sentences.append(f"Influence of each key, by fANOVA: {influence}.")
    edges = [key for key, share in _edges(study, best).items() if share]
    if edges:
        sentences.append(
            f"The best lies at the edge of what was searched in {', '.join(edges)}: a wider range may be better."
        )
    return sentences


def _edges(study: optuna.Study, best: Any) -> dict[str, bool]:
    """Which ranges the best lies within a twentieth of an end of."""
    found = {}
    for key, kind in best.distributions.items():
        low, high = getattr(kind, "low", None), getattr(kind, "high", None)
        if low is None or high is None:
            continue
        scale = math.log if kind.log else float
        place = (scale(best.params[key]) - scale(low)) / (scale(high) - scale(low))
        found[key] = not 0.05 < place < 0.95
    return found


def _table(study: optuna.Study, file: Path, knobs: Sequence[Knob], figure: str) -> None:
    sign = study.user_attrs["sign"]
    with atomic_file(file) as scratch, scratch.open("w", encoding="utf-8", newline="") as target:
        rows: list[list[Any]] = [["trial", "state", *(knob.key for knob in knobs), f"{figure} (validation)"]]
        for trial in study.get_trials(deepcopy=False):
            value = "" if trial.value is None else sign * trial.value
            words = trial.user_attrs.get("words", {})
            rows.append([trial.number, trial.state.name.lower(), *(words.get(k.key, "") for k in knobs), value])
        write_csv(target, rows)
