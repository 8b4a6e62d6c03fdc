"""From the first step to the last: when to log, check, save and stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

from ectype.errors import Interrupted
from ectype.training.memory import fitting
from ectype.training.monitor import Monitor, Verdict
from ectype.training.trainer import Trainer

__all__ = ["Callback", "Check", "Choices", "Outcome", "choose", "fit"]

EPOCH = 100
"""Updates that a check after each epoch waits for where the images are few: noise between two of them is no end."""
CHECK_SHARE = 0.07
"""Of the training time: what checks may cost where their interval is chosen for the user; under a tenth, with room for
a machine that is busier later."""
CHECKS = 40
"""And how many there are at most in a whole budget."""

Measure = Callable[[nn.Module], dict[str, float]]
"""A model to named numbers; the first is what the monitor follows, lower being better."""
Judge = Callable[[Mapping[str, float], Monitor], Verdict]
"""These numbers and all that came before to a verdict."""


class Check(NamedTuple):
    """What one look found."""

    seen: int
    step: int
    values: dict[str, float]
    best: bool
    last: bool
    verdict: Verdict | None = None
    seconds: float = 0.0
    """That it took, writing the checkpoint not included."""


class Outcome(NamedTuple):
    """How training ended."""

    state: str
    """finished, stopped early, or the verdict that ended it."""
    reason: str
    seen: int
    step: int
    best_step: int | None
    """Of the checkpoint that the monitor liked best."""
    check_seconds: float = 0.0
    """Spent on checks, since the start or the last resuming."""


class Callback:
    """What users and the program hang into the loop. Every method may be left out; none may change the training."""

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        """Before the first step, or the first after resuming."""

    def stepped(self, trainer: Trainer) -> None:
        """After every step."""

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        """Every few seconds, with means since the last time."""

    def checked(self, trainer: Trainer, check: Check) -> None:
        """After every check, when its checkpoint is safe."""

    def ended(self, outcome: Outcome | None) -> None:
        """At the end; None where an error or a signal ended it."""


class Choices(NamedTuple):
    """What is chosen once, at the start, and kept in every checkpoint."""

    budget: int
    every: int
    micro_batch: int | None = None
    """Images at a time; None for all. Halved in the run where memory does not suffice after all."""


def choose(trainer: Trainer, measure: Measure | None, *, most: float = 2.0) -> Choices:
    """Turn minutes into images and `auto` into an interval and a micro-batch, by steps of a copy that is thrown away.

    Args:
        trainer: At its start.
        measure: What a check costs.
        most: Seconds to spend on timing steps.
    """
    recipe = trainer.recipe
    trainer.micro_batch = fitting(trainer)
    minutes, every = recipe.train.minutes, recipe.monitor.every
    budget = recipe.train.images
    if every == "epoch":
        every = max(len(trainer.feed), EPOCH * trainer.batch)
    if minutes is not None or every == "auto":
        copy = trainer.rehearsal()
        if recipe.train.compile:  # copies are not compiled, and would be timed at another speed
            for part in copy.objective.compilable():
                part.compile()
        for _ in range(3):
            copy.step()
        started, steps = time.perf_counter(), 0
        # Steps exchange messages: all processes must make as many, and each has a clock of its own.
        while trainer.world.agree((elapsed := time.perf_counter() - started) < most or steps < 5):
            copy.step()
            _wait(trainer.device)
            steps += 1
        per_image = elapsed / (steps * trainer.batch)
        trainer.micro_batch = copy.micro_batch
        started = time.perf_counter()
        if measure is not None and trainer.world.first:
            measure(copy.model)
        check = time.perf_counter() - started
        if minutes is not None:
            share = check / every if isinstance(every, int) else CHECK_SHARE * per_image
            budget = max(trainer.batch, int(minutes * 60 / (per_image + share)))
        if every == "auto":
            every = max(budget // CHECKS, int(check / per_image / CHECK_SHARE))
    rounded = max(trainer.batch, -(-min(int(every), budget) // trainer.batch) * trainer.batch)
    return trainer.world.agree(Choices(budget, rounded, trainer.micro_batch))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fit(
    trainer: Trainer,
    monitor: Monitor,
    measure: Measure | None,
    *,
    judge: Judge | None = None,
    save: Callable[[], None],
    callbacks: Sequence[Callback],
    log_every: float,
) -> Outcome:
    """Train until the budget is spent or the monitor's patience is, checking and saving on the way.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; the step was finished and saved.
        Diverged: See `Trainer.step`.
    """
    world = trainer.world

    def tell(method: str, *arguments: Any) -> None:
        if world.first:
            for callback in callbacks:
                getattr(callback, method)(*arguments)

    def log() -> None:
        nonlocal since, since_seen
        metrics, now = trainer.take_metrics(), time.perf_counter()
        metrics["images/s"] = (trainer.seen - since_seen) / max(1e-9, now - since)
        tell("logged", trainer.seen, trainer.step_count, metrics)
        since, since_seen = time.perf_counter(), trainer.seen

    def leaving() -> bool:
        # Asking the other processes costs a message: now and then is soon enough.
        return asked() if world.size == 1 else trainer.step_count % 16 == 0 and world.any(asked())

    best_step, checking = None, 0.0
    if monitor.best_seen is not None:
        best_step = -(-monitor.best_seen // trainer.batch)
    tell("started", trainer, monitor)
    since, since_seen = time.perf_counter(), trainer.seen
    try:
        with _signals() as asked:
            while trainer.seen < trainer.budget and not monitor.done:
                before = trainer.seen
                trainer.step()
                tell("stepped", trainer)
                if time.perf_counter() - since >= log_every:
                    log()
                last = trainer.seen >= trainer.budget
                if last or monitor.due(before, trainer.seen):
                    if trainer.seen > since_seen:
                        log()
                    looked = time.perf_counter()
                    values = world.agree(measure(trainer.model) if measure is not None and world.first else {})
                    # One process knows what real images look like, and judges for all.
                    judged = judge(values, monitor) if world.first and judge is not None and values else None
                    verdict = world.agree(judged)
                    better = bool(values) and monitor.record(trainer.seen, values, verdict, trainer.objective.phase)
                    best_step = trainer.step_count if better else best_step
                    took = time.perf_counter() - looked
                    checking += took
                    save()
                    check = Check(trainer.seen, trainer.step_count, values, better, last, verdict, took)
                    tell("checked", trainer, check)
                    since, since_seen = time.perf_counter(), trainer.seen
                if leaving():
                    save()
                    raise Interrupted(
                        f"stopped at {trainer.seen:,} of {trainer.budget:,} images, all saved: "
                        "the same command with --resume goes on from there."
                    )
        early = monitor.done
        outcome = Outcome(
            monitor.fatal or ("stopped early" if early else "finished"),
            monitor.reason() if early else f"the budget of {trainer.budget:,} images was used",
            trainer.seen,
            trainer.step_count,
            best_step,
            checking,
        )
    except BaseException:
        for callback in callbacks if world.first else ():
            # What ended it may be a disk that is full, which a file that is closed meets once more.
            with contextlib.suppress(OSError):
                callback.ended(None)
        raise
    tell("ended", outcome)
    return outcome


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C and SIGTERM ask instead of break; a second Ctrl-C breaks."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        for number in before:
            signal.signal(number, ask)
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
