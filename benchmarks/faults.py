"""Nothing lost, nothing silently wrong, none hung: faults, how often each was tried, and how often it was survived.

- kills: training is killed (SIGKILL) at a random moment and resumed; the end has to be bit-equal with an uninterrupted
  run, and no check may be missing from its metrics.
- calls: training dies before each system call that changes files, from one check to the end: saving, pruning, writing
  metrics and pictures, shipping the model. Resumed, the end has to be bit-equal.
- disk: training on a disk that is full after so many bytes has to end in one line, and bit-equal when it is resumed
  on a larger disk. The disk is a tmpfs, which reports ENOSPC. Where it cannot be mounted, the limit is that of the size
  of a file (RLIMIT_FSIZE), which reports EFBIG.
- bits: one bit of one file of a finished run or of its prepared images is flipped. Measuring, listing and continuing it
  have to end in one line, give a warning, or give the results of before.
- recipes: recipes drawn from the schema, valid and broken, are built under limits of memory and time, or refused in one
  line; see `drawn_recipes.py`.
- cases: inputs from the field that were once read wrong; see `field_cases.py`.

Every run is a forked child of this process, so that PyTorch is imported once. Each row ends after its share of the
time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from common import ROOT, Row, arguments, console, tell

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT))
os.environ["ECTYPE_CACHE"] = os.path.join(mkdtemp(prefix="ectype-faults-"), "cache")

import torch
from tests.conformance.small import small
from tests.crash import run_until

import drawn_recipes
import field_cases
from ectype.analysis.open_view import open_view
from ectype.config.recipe import Recipe
from ectype.core.errors import EctypeError
from ectype.evaluation.monitor import best_check
from ectype.runs import checkpoint
from ectype.runs.json_files import read_json_file
from ectype.runs.run_dir import RunDir, find_runs
from ectype.training.run import train

SCRATCH = Path(os.environ["ECTYPE_CACHE"]).parent
FAMILIES = ("vae", "gan-mlp", "flow", "unet-segment")
"""A variational autoencoder, a GAN, a flow and a segmentation model, each a few seconds long."""
MINUTES = 30
"""Of all rows together."""
TIMEOUT = 600.0
"""Seconds after which a child is taken to hang; a run takes a few, many times more on a machine with other work."""
SHORT = {
    "train.images": 960,
    "monitor.every": 320,
    "monitor.images": 200,
    "run.pictures": 2,
    "run.keep_last": 1,
    "run.keep_best": False,
    "run.threads": 1,
}
"""Three checks, and one checkpoint at a time."""
TIMES = frozenset({"time", "seconds", "check_share", "peak_memory", "images/s"})
"""What differs between two equal runs."""


class Tried(NamedTuple):
    """The result of a row."""

    tries: int
    survived: int
    failures: list[str]
    detail: str = ""
    complete: bool = True
    """Whether all tries that were asked for were made. If the time ended first, the goal is not met."""


class Ended(NamedTuple):
    """How a child ended."""

    how: str
    """`done`, `line` (an error for the user), `traceback`, `hung`, or `signal n`."""
    value: Any = None
    text: str = ""
    """The error, and warnings."""


# ── Children ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def child(action: Callable[[], Any], *, kill_after: float | None = None) -> Ended:
    """Run an action in a forked child; return how it ended, with a value that JSON can hold."""
    report = SCRATCH / "child.json"
    report.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(action, report))
    process.start()
    process.join(TIMEOUT if kill_after is None else kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return Ended("hung" if kill_after is None else f"signal {signal.SIGKILL}")
    if not report.is_file():
        return Ended(f"signal {-(process.exitcode or 0)}")
    return Ended(*json.loads(report.read_text()))


def _child(action: Callable[[], Any], report: Path) -> None:
    ended = Ended("traceback")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            ended = Ended("done", action())
        except EctypeError as error:
            ended = Ended("line" if "\n" not in str(error) else "traceback", text=str(error))
        except BaseException:
            ended = Ended("traceback", text=traceback.format_exc())
    said = [str(each.message) for each in found if issubclass(each.category, UserWarning)]
    text = "; ".join(filter(None, [ended.text, *said]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    report.write_text(json.dumps(ended._replace(text=text)))
    os._exit(0)


def result(run: RunDir) -> dict[str, Any]:
    """Return everything that must be equal for two runs to be equal."""

    def timeless(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in TIMES}

    newest = checkpoint.latest(run.checkpoints)
    assert newest is not None, "no whole checkpoint"
    return {
        "model": json.loads((run.model / checkpoint.MANIFEST).read_text()),
        "checkpoint": {
            name: digest
            for name, digest in json.loads((newest / checkpoint.MANIFEST).read_text()).items()
            if name != checkpoint.STATE
        },
        "state": timeless(checkpoint.load_state(newest)),
        "checks": [timeless(line) for line in run.metrics() if line["kind"] == "check"],
        "summary": timeless(run.summary()),
    }


def finish(recipe: Recipe, place: Path) -> Any:
    """Train or continue a run to its end and return its result, in this process."""
    return result(train(recipe, out=place))


def differences(expected: dict[str, Any], found: Ended) -> str:
    """Return why the end of a run is not the expected one; empty if it is."""
    if found.how != "done":
        return f"{found.how}: {found.text[-300:]}"
    wrong = [key for key, value in json.loads(json.dumps(expected)).items() if found.value[key] != value]
    return f"not equal: {', '.join(wrong)}" if wrong else ""


def whole(name: str) -> tuple[Recipe, Path, dict[str, Any], float]:
    """Return recipe, directory, result and seconds of an uninterrupted run, which is trained once."""
    recipe = small(name, **SHORT)
    place = SCRATCH / "whole" / name
    if not (place / "result.json").is_file():
        ended = child(lambda: finish(recipe, place))
        if ended.how != "done":
            sys.exit(f"{name} cannot be trained ({ended.how}): {ended.text}")
        (place / "result.json").write_text(json.dumps(ended.value))
    summary = read_json_file(place / "summary.json") or {}
    return recipe, place, json.loads((place / "result.json").read_text()), summary["seconds"]


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def kills(tries: int, until: float) -> Tried:
    """Kill training at random moments."""
    chance, done, failures = random.Random(0), 0, []
    for number in range(tries):
        name = FAMILIES[number % len(FAMILIES)]
        recipe, _, expected, seconds = whole(name)
        if time.monotonic() > until:
            break
        place, moment = SCRATCH / "killed", chance.uniform(0.0, 1.1 * seconds)
        shutil.rmtree(place, ignore_errors=True)
        child(lambda recipe=recipe, place=place: finish(recipe, place), kill_after=moment)
        why = differences(expected, child(lambda recipe=recipe, place=place: finish(recipe, place)))
        done += 1
        if why:
            failures.append(f"{name} killed after {moment:.2f} s: {why}")
    return Tried(done, done - len(failures), failures, f"{', '.join(FAMILIES)} in turn", done >= tries)


def half_way(name: str) -> tuple[Recipe, Path, dict[str, Any]]:
    """Return recipe, directory and expected result of a run that was killed after its last check but one."""
    recipe, _, expected, _ = whole(name)
    place = SCRATCH / "half" / name
    if not place.is_dir():
        run = RunDir(place)

        def stop_there() -> None:
            from ectype.training.loop import Callback

            class Stop(Callback):
                def checked(self, trainer: Any, check: Any) -> None:
                    if check.seen + recipe.monitor.every >= recipe.train.images:  # pyright: ignore
                        os._exit(0)

            train(recipe, out=place, callbacks=[Stop()])

        child(stop_there)
        assert checkpoint.latest(run.checkpoints) is not None
    return recipe, place, expected


def calls(tries: int, until: float) -> Tried:
    """Die before every system call that changes files, from the last check but one to the end."""
    done, failures, counts, complete = 0, [], {}, True
    for at, name in enumerate(FAMILIES):
        recipe, begun, expected = half_way(name)
        share = time.monotonic() + (until - time.monotonic()) / (len(FAMILIES) - at)
        call, killed = 0, True
        while killed and call < tries and time.monotonic() < share:
            call += 1
            place = SCRATCH / "called"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(begun, place)
            why = ""
            try:
                killed = run_until(lambda recipe=recipe, place=place: train(recipe, out=place), call=call)
            except AssertionError as error:
                why = f"{error}; "
            why += "" if checkpoint.latest(RunDir(place).checkpoints) else "no whole checkpoint; "
            why += differences(expected, child(lambda recipe=recipe, place=place: finish(recipe, place)))
            done += 1
            if why:
                failures.append(f"{name}, call {call}: {why}")
        counts[name] = f"{name} {call}" + (" (not all)" if killed else "")
        complete = complete and (not killed or call >= tries)
    return Tried(done, done - len(failures), failures, f"calls: {', '.join(counts.values())}", complete)


@contextmanager
def small_disk(size: int) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None], str]]:
    """Yield a directory on a disk of so many bytes, what a child calls to begin, what makes it larger, and its name."""
    place = SCRATCH / "disk"
    place.mkdir(exist_ok=True)
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode

    def limit() -> None:
        if not mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def enlarge() -> None:
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)

    try:
        yield place / "run", limit, enlarge, "ENOSPC on a tmpfs" if mounted else "EFBIG by RLIMIT_FSIZE"
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
        shutil.rmtree(place, ignore_errors=True)


def disk(tries: int, until: float) -> Tried:
    """Train on disks that are full after so many bytes."""
    done, failures, full, kinds = 0, [], 0, set()
    for number in range(tries):
        name = FAMILIES[number % len(FAMILIES)]
        recipe, place, expected, _ = whole(name)
        if time.monotonic() > until:
            break
        needed = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        size = max(4096, int(1.5 * needed * (number + 0.5) / tries))
        with small_disk(size) as (out, limit, enlarge, kind):
            kinds.add(kind)

            def attempt(recipe: Recipe = recipe, out: Path = out, limit: Callable[[], None] = limit) -> Any:
                limit()
                return finish(recipe, out)

            ended = child(attempt)
            full += ended.how == "line"
            why = "" if ended.how in ("line", "done") else f"{ended.how}: {ended.text[-300:]}"
            enlarge()
            why += differences(expected, child(lambda recipe=recipe, out=out: finish(recipe, out)))
        done += 1
        if why:
            failures.append(f"{name} on {size:,} bytes: {why}")
    return Tried(
        done, done - len(failures), failures, f"{', '.join(kinds)}; {full} of these runs found it full", done >= tries
    )


def used(recipe: Recipe, place: Path) -> Any:
    """Return what a user sees of a finished run: its state, its metrics, its figures, its model's samples."""
    run = RunDir.existing(place)
    (listed,) = [each for each in find_runs(place.parent) if each.path == place]
    view = open_view(run)
    figures = json.loads(view.evaluation.to_json())
    figures.pop("seconds", None)
    return {
        "listed": [listed.state(), listed.seen(), best_check(listed)],
        "metrics": run.metrics(),
        "figures": figures,
        "weights": str(sum(value.double().abs().sum() for value in view.model.state_dict().values())),
        "recipe": run.recipe.plain() == recipe.plain(),
    }


def continued(recipe: Recipe, place: Path) -> Any:
    """Return the result of a run whose end was lost, continued from its checkpoints."""
    run = RunDir(place)
    run.summary_file.unlink()
    shutil.rmtree(run.model)
    return finish(recipe, place)


def bits(tries: int, until: float) -> Tried:
    """Flip bits of a finished run and of its prepared images."""
    chance, done, failures, found, name = random.Random(0), 0, [], 0, FAMILIES[0]
    recipe, place, _, _ = whole(name)
    cache, run = SCRATCH / "cache", SCRATCH / "flipped" / "run"
    kept = SCRATCH / "kept"
    child(lambda: used(recipe, place))  # stores figures, and what they are measured with

    def restore() -> None:
        for target, source in ((run, kept / "run"), (cache, kept / "cache")):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    shutil.copytree(place, kept / "run")
    shutil.copytree(cache, kept / "cache")
    (kept / "run" / "result.json").unlink()
    restore()
    uses = (lambda: used(recipe, run), lambda: continued(recipe, run))
    expected = []
    for use in uses:
        restore()
        expected.append(child(use))
        if expected[-1].how != "done":
            sys.exit(f"the run cannot be used: {expected[-1]}")
    files = sorted(
        file for root in (run, cache / "data") for file in root.rglob("*") if file.is_file() and file.stat().st_size
    )
    for number in range(tries):
        if time.monotonic() > until:
            break
        file = files[number % len(files)]
        restore()
        content = bytearray(file.read_bytes())
        bit = chance.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        why = []
        for use, before in zip(uses, expected, strict=True):
            if file.is_relative_to(run) and use is uses[1]:
                restore()
                file.write_bytes(content)
            ended = child(use)
            told = ended.how == "line" or (ended.how == "done" and ended.text != before.text)
            found += told
            if not told and ended != before:
                wrong = ended.how
                if ended.how == "done":
                    other = [key for key, value in before.value.items() if ended.value[key] != value]
                    wrong = f"silently other {', '.join(other)}"
                why.append(f"{wrong} {ended.text[-300:]}")
        done += 1
        if why:
            relative = file.relative_to(SCRATCH)
            failures.append(f"{relative}, bit {bit}: {'; '.join(why)}")
    return Tried(
        done, done - len(failures), failures, f"{len(files)} files; {found} times found, else harmless", done >= tries
    )


ROWS: dict[str, tuple[Callable[[int, float], Tried], int, int, str]] = {
    "kills": (kills, 84, 8, "kills at random moments"),
    "calls": (calls, 10_000, 12, "crashes at every call of a save, four families"),
    "disk": (disk, 20, 4, "disks that are full"),
    "bits": (bits, 200, 20, "flipped bits"),
    "recipes": (lambda tries, until: Tried(*drawn_recipes.run(tries), ""), 500, 40, "recipes drawn from the schema"),
    "cases": (lambda tries, until: Tried(*field_cases.run(), ""), 16, 16, "inputs from the field"),
}
"""Name → function of the number of tries and the time to end at, tries (of `calls`: at most, for each family), tries
with `--quick`, and what is tried."""


def main() -> None:
    """Run the rows and report."""
    given = arguments(__doc__, only=("", f"one of {', '.join(ROWS)}"), minutes=(float(MINUTES), "minutes of all rows"))
    if given.only and given.only not in ROWS:
        sys.exit(f"--only {given.only}: choose from {', '.join(ROWS)}")
    torch.set_num_threads(1)
    names = [given.only] if given.only else list(ROWS)
    end = time.monotonic() + 60 * given.minutes
    rows, failures = [], {}
    try:
        for number, name in enumerate(names):
            function, full, quick, what = ROWS[name]
            start = time.monotonic()
            tried = function(quick if given.quick else full, start + (end - start) / (len(names) - number))
            took = f"{time.monotonic() - start:.0f} s"
            ratio = tried.survived / tried.tries if tried.tries else None
            met = tried.complete and tried.tries > 0 and tried.survived == tried.tries
            rows.append(Row(what, tried.tries, tried.survived, ratio, "all", met, f"{tried.detail}; {took}"))
            failures[name] = tried.failures
            for failure in tried.failures:
                console.print(f"{name}: {failure}", markup=False)
    finally:
        with suppress(OSError):
            shutil.rmtree(SCRATCH)
    notes = [
        "Peer: how often a fault was tried; ours: how often it was survived.",
        f"Families: {', '.join(FAMILIES)}, on digits of 16×16 pixels, with run.keep_last=1.",
    ]
    title = "Faults: tried (peer), survived (ours)"
    tell("faults", title, rows, notes, quick=given.quick, failures=failures)


if __name__ == "__main__":
    main()
