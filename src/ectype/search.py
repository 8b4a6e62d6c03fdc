"""Search over several knobs of a recipe at once, by Optuna (Akiba et al. 2019): each trial is a run."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from ectype.apart import stoppable, train_all
from ectype.compare import in_words, values_of
from ectype.errors import EctypeError, Interrupted, RecipeError, RunError
from ectype.loading import open_data
from ectype.measure.evaluation import Evaluation, Figure, number
from ectype.measure.standing import standings
from ectype.recipe import Recipe
from ectype.results import comparison_page, evaluate, validated
from ectype.run import resolve
from ectype.training.position import derive
from ectype.training.rundir import RunDir

if TYPE_CHECKING:
    import optuna

__all__ = ["Knob", "Search", "knobs_of", "search"]

SHOWN = 4
"""Trials on the page, the best first."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
WIDE = 10.0
"""Times its low end that a range's high end lies above from which it is searched by its logarithm."""


class Knob(NamedTuple):
    """What is searched."""

    key: str
    choices: tuple[str, ...] = ()
    """Or else a range."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Every choice, or both ends of a range, as they are typed."""
        if self.choices:
            return self.choices
        return tuple(str(int(end)) if self.whole else f"{end:.6g}" for end in (self.low, self.high))

    def suggest(self, trial: optuna.Trial) -> str:
        """A value for a trial, as it is typed."""
        if self.choices:
            return str(trial.suggest_categorical(self.key, self.choices))
        log = self.low > 0 and self.high / self.low >= WIDE
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=log))
        return f"{trial.suggest_float(self.key, self.low, self.high, log=log):.6g}"


class Search(NamedTuple):
    """What came of it."""

    figure: str
    """What trials were judged by, on validation images."""
    best: dict[str, Any]
    """Key → value of the best trial."""
    said: list[str]
    page: Path


def knobs_of(words: Sequence[str]) -> tuple[list[Knob], list[str]]:
    """What is to be searched, and the words that all trials share.

    Args:
        words: `key=value`; `key=2..512` is a range, `key=a,b,c` a choice.

    Raises:
        RecipeError: No knob, or a range that is none.
    """
    knobs, shared = [], []
    for word in words:
        key, _, text = word.partition("=")
        if found := re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", text.strip()):
            low, high = found.groups()
            ends = float(low), float(high)
            if not ends[0] < ends[1]:
                raise RecipeError(f"{word}: a range goes from the lower number to the higher.")
            whole = all(part.lstrip("+-").isdigit() for part in (low, high))
            knobs.append(Knob(key, (), *ends, whole))
        elif len(choices := values_of(text)) > 1:
            knobs.append(Knob(key, tuple(choices)))
        else:
            shared.append(word)
    if not knobs:
        raise RecipeError("no key has several values: name what is searched, such as latent_dim=2..512 or net=a,b.")
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
    command: str = "",
    console: Console | None = None,
) -> Search:
    """Train `trials` runs, each with knobs that those before it make promising, and write a page about the best.

    Trials are judged on validation images; the page shows figures of test images, which no choice has seen. Killed and
    called again with the same arguments it goes on, and runs that were cut off end first.

    Args:
        recipe: A preset or a file.
        knobs: What is searched.
        data: Anything that training accepts.
        out: A directory: made, or gone on with.
        trials: In all, failed ones not counted.
        words: Overrides of all trials.
        images: Budget of each, such as `500k`.
        minutes: Budget in time instead.
        by: The figure that trials are judged by; None for the likelihood of models that have one, the distance of
            samples of those that are sampled, Dice of masks, PSNR of all else.
        storage: A URL of a data base that several machines share; a file in `out` if not given.
        processes: Runs at a time; 0 for as many as leave each two cores.
        command: What the page says repeats this.
        console: Where to speak; None is silent.

    Raises:
        RecipeError: A recipe that does not resolve, no budget, or a figure that these models have not.
        RunError: Optuna is not installed, the storage cannot be used, or no trial came to its end.
    """
    if (images is None) == (minutes is None):
        raise RecipeError("give one budget for each trial: --images 500k, or --minutes 10.")
    place, cores = Path(out), os.cpu_count() or 1
    processes = processes or max(1, cores // 2)
    budget = f"train.images={images}" if images is not None else f"train.minutes={minutes:g}"
    shared = [*words, budget, f"run.threads={max(1, cores // processes)}"]

    def say(text: str) -> None:
        if console is not None:
            console.print(text, highlight=False, soft_wrap=True, markup=False)

    def made(values: Mapping[str, str]) -> Recipe:
        return resolve(recipe, data, [*shared, *(f"{key}={value}" for key, value in values.items())])

    # What cannot be trained is said before anything is made: every choice, and both ends of every range.
    seen = set()
    for which in range(max(len(knob.ends) for knob in knobs)):
        end = made({knob.key: knob.ends[min(which, len(knob.ends) - 1)] for knob in knobs}).data
        seen.add((end.size, end.channels, end.min_size, end.split.model_dump_json(), *end.prepared.values()))
    if len(seen) > 1:
        raise RecipeError(
            f"{', '.join(knob.key for knob in knobs)}: figures of images that are prepared or split differently cannot "
            "be weighed; fix size, channels, min_size, split, resize, background and binarise, and search what is left."
        )
    open_data(made({knob.key: knob.ends[0] for knob in knobs}).data, console)
    study = _study(place, storage, recipe)
    _same_study(study, {"recipe": recipe, "data": str(data), "words": shared[:-1], "knobs": [list(k) for k in knobs]})
    judged_by = study.user_attrs.get("figure")
    if by is not None and judged_by not in (None, by):
        raise RunError(f"--by {by}: trials there were judged by {judged_by}; leave it out, or give another --out.")
    with stoppable():
        _go_on(study, place, processes, trials, knobs, made, by, say, alone=storage is None)
        judged = _judged(study)
        if not judged:
            raise RunError(f"no trial came to its end: see the .log files in '{place}'.")
        best = [trial for trial in judged if (place / _name(trial)).is_dir()][:SHOWN]
        runs = {f"{trial.number}: {_told(trial.params)}": RunDir.existing(place / _name(trial)) for trial in best}
        found: dict[str, list[Evaluation]] = {told: [evaluate(run)] for told, run in runs.items()}
    figure = study.user_attrs["figure"]
    said = _sentences(study, judged, figure, budget)
    _table(study, place / "trials.csv", knobs, figure)
    page = comparison_page(
        {told: [run] for told, run in runs.items()}, standings(found), said, out=place / "study.html", command=command
    )
    return Search(figure, judged[0].params, said, page)


def _study(place: Path, storage: str | None, recipe: str) -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise RunError("--trials searches with Optuna: pip install 'ectype[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{place.resolve() / 'trials.db'}"
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.create_study(storage=url, study_name=f"{place.name}: {recipe}", load_if_exists=True)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        raise RunError(f"--storage {url} cannot be used ({str(error).splitlines()[0]}): check the address.") from None


def _go_on(
    study: optuna.Study,
    place: Path,
    processes: int,
    trials: int,
    knobs: Sequence[Knob],
    made: Callable[[Mapping[str, str]], Recipe],
    by: str | None,
    say: Callable[[str], None],
    *,
    alone: bool,
) -> None:
    """Trials until there are enough, those that were cut off here first; `alone`: all are of this place."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    # Of several machines with one storage, each goes on with its own; a container has another name at each start.
    here = f"{socket.gethostname()}:{place.resolve()}"
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    waiting = []
    for trial in running:
        if alone and "words" not in trial.user_attrs:  # killed before it was told what to try
            study.tell(trial.number, state=TrialState.FAIL)
        elif alone or trial.user_attrs.get("here") == here:
            waiting.append((trial.number, trial.user_attrs["words"]))
    while True:
        done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        others = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))) - len(waiting)
        while len(waiting) < min(processes, trials - done - others):
            # A seed of its own for each place and trial: neither another machine nor a second start draws the same.
            known = len(study.get_trials(deepcopy=False))
            study.sampler = TPESampler(seed=derive(0, here, known) % 2**32, multivariate=True, constant_liar=True)
            trial = study.ask()
            words = {knob.key: knob.suggest(trial) for knob in knobs}
            trial.set_user_attr("words", words)
            trial.set_user_attr("here", here)
            waiting.append((trial.number, words))
        if not waiting:
            return
        turn, waiting = waiting[:processes], waiting[processes:]
        recipes = {f"trial-{which:03d}": made(words) for which, words in turn}
        failed = train_all(place, recipes, processes, say)
        for which, words in turn:
            name = f"trial-{which:03d}"
            try:
                if name in failed:
                    raise RunError(failed[name])
                figure = _figure(validated(RunDir.existing(place / name)), by)
            except Interrupted:
                raise
            except EctypeError as error:
                if isinstance(error, RecipeError):
                    raise
                study.tell(which, state=TrialState.FAIL)
                say(f"{name}: failed: {error}")
                if len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,))) >= max(3, trials):
                    raise RunError(f"trial after trial fails, the last with: {error}") from None
                continue
            same = [figure.name, figure.among]
            before = [study.user_attrs.get(key, now) for key, now in zip(("figure", "among"), same, strict=True)]
            if before != same:
                raise RecipeError(
                    f"{name} is judged by {' of a '.join(filter(None, same))}, those before it by "
                    f"{' of a '.join(filter(None, before))}, and these cannot be weighed: give --by a figure that "
                    "all have, or do not search what makes the difference."
                )
            sign = -1.0 if figure.better == "higher" else 1.0
            study.set_user_attr("figure", figure.name)
            study.set_user_attr("among", figure.among)
            study.set_user_attr("sign", sign)
            study.tell(which, sign * figure.value if math.isfinite(figure.value) else math.inf)
            say(f"{name}: {_told(words)}: {figure.name} {figure.text} on validation images")


def _same_study(study: optuna.Study, plan: dict[str, Any]) -> None:
    """Note what is searched, or make sure that it is what was searched there before."""
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
        raise RunError(f"another search lies there ({keys}): restore these, or give another --out.")


def _name(trial: Any) -> str:
    return f"trial-{trial.number:03d}"


def _figure(found: Evaluation, by: str | None) -> Figure:
    """What a trial is judged by."""
    if by is not None:
        if (figure := found.get(by)) is None or figure.better is None:
            have = ", ".join(figure.name for figure in found.figures if figure.better)
            raise RecipeError(f"--by {by}: these models have no such figure that is better one way; have {have}.")
        return figure
    first = {"explicit bound": ("log-likelihood",), "implicit": ("FD-", "FID")}.get(found.density, ())
    for start in (*first, "mean Dice", "PSNR", "SSIM", "FD-", "FID"):
        for figure in found.figures:
            if figure.name.startswith(start) and figure.better:
                return figure
    raise RecipeError("these models have no figure to judge them by.")


def _judged(study: optuna.Study) -> list[Any]:
    """Trials that came to their end, the best first."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda trial: math.inf if trial.value is None else trial.value)


def _told(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def _sentences(study: optuna.Study, judged: Sequence[Any], figure: str, budget: str) -> list[str]:
    sign, best = study.user_attrs["sign"], judged[0]
    said = [
        f"Of {len(judged)} trials with {in_words(budget)} each, {_told(best.params)} was best by {figure} on "
        f"validation images: {number(sign * best.value)}. One run of each: what is close together may "
        "change places with another seed. The figures below are of test images, which chose nothing."
    ]
    if len(best.params) > 1 and len(judged) >= 10:
        from optuna.importance import get_param_importances

        shares = get_param_importances(study, params=list(best.params))
        said.append("What moved it, by fANOVA: " + ", ".join(f"{k} {share:.0%}" for k, share in shares.items()) + ".")
    edges = [key for key, share in _edges(study, best).items() if share]
    if edges:
        said.append(
            f"The best lies at the edge of what was searched in {', '.join(edges)}: a wider range may be better."
        )
    return said


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
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["trial", "state", *(knob.key for knob in knobs), f"{figure} (validation)"])
        for trial in study.get_trials(deepcopy=False):
            value = "" if trial.value is None else sign * trial.value
            words = trial.user_attrs.get("words", {})
            writer.writerow([trial.number, trial.state.name.lower(), *(words.get(k.key, "") for k in knobs), value])
