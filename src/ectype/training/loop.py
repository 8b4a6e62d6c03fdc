"""The training loop: when to log, check, save and stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from ectype.core.errors import Interrupted
from ectype.core.signals import handle_stop_signals
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.training.trainer import Trainer

__all__ = ["Callback", "Check", "Measure", "Outcome", "fit"]

Measure = Callable[[nn.Module], dict[str, float]]
"""Maps a model to named values; the monitor follows the first, lower is better."""
Judge = Callable[[Mapping[str, float], Monitor], Verdict]
"""Maps these values and the history of the monitor to a verdict."""


class Check(NamedTuple):
    """The result of one check."""

    seen: int
    step: int
    values: dict[str, float]
    best: bool
    last: bool
    verdict: Verdict | None = None
    seconds: float = 0.0
    """Duration without writing the checkpoint."""


class Outcome(NamedTuple):
    """How training ended."""

    state: str
    """finished, stopped early, or the verdict that ended it."""
    reason: str
    seen: int
    step: int
    best_step: int | None
    """Step of the best checkpoint by the monitor."""
    check_seconds: float = 0.0
    """Time spent on checks since the start, or since the run was resumed."""


class Callback:
    """Base class of callbacks. Override any of its methods; none of them may change the training."""

    def started(self, trainer: Trainer, monitor: Monitor) -> None:
        """Called before the first step, or the first one after resuming."""

    def stepped(self, trainer: Trainer) -> None:
        """Called after every step."""

    def logged(self, seen: int, step: int, metrics: dict[str, float]) -> None:
        """Called every few seconds with the means since the last call."""

    def measured(self, trainer: Trainer, check: Check) -> None:
        """Called after every check, before its checkpoint is saved."""

    def checked(self, trainer: Trainer, check: Check) -> None:
        """Called after every check, when its checkpoint is saved."""

    def ended(self, outcome: Outcome | None) -> None:
        """Called at the end; `outcome` is None if an error or a signal ended the run."""


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
    """Train until the budget or the monitor's patience is used up, with checks and checkpoints on the way.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP was received; the step was finished and saved.
        Diverged: See `Trainer.step`.
    """
    world = trainer.world

    def notify(method: str, *arguments: Any) -> None:
        if world.is_first:
            for callback in callbacks:
                getattr(callback, method)(*arguments)

    def log() -> None:
        nonlocal since, since_seen
        metrics, now = trainer.take_metrics(), time.perf_counter()
        metrics["images/s"] = (trainer.seen - since_seen) / max(1e-9, now - since)
        notify("logged", trainer.seen, trainer.step_count, metrics)
        since, since_seen = time.perf_counter(), trainer.seen

    def should_stop() -> bool:
        # Asking the other processes costs a message, so it is done only now and then.
        return stop_requested() if world.size == 1 else trainer.step_count % 16 == 0 and world.any(stop_requested())

    best_step, checking = None, 0.0
    if monitor.best_seen is not None:
        best_step = -(-monitor.best_seen // trainer.batch)
    notify("started", trainer, monitor)
    since, since_seen = time.perf_counter(), trainer.seen
    try:
        with _signals() as stop_requested:
            while trainer.seen < trainer.budget and not monitor.done:
                before = trainer.seen
                trainer.step()
                notify("stepped", trainer)
                if time.perf_counter() - since >= log_every:
                    log()
                last = trainer.seen >= trainer.budget
                if last or monitor.due(before, trainer.seen):
                    if trainer.seen > since_seen:
                        log()
                    check_started = time.perf_counter()
                    values = world.broadcast(measure(trainer.model) if measure is not None and world.is_first else {})
                    phase = trainer.objective.critic_phase
                    monitor.seen, monitor.updates = trainer.seen, trainer.step_count
                    monitor.is_last_check = last or (bool(values) and monitor.ends_with(trainer.seen, values, phase))
                    # The first process has the reference of real images, and decides for all.
                    judged = judge(values, monitor) if world.is_first and judge is not None and values else None
                    verdict = world.broadcast(judged)
                    better = bool(values) and monitor.record(trainer.seen, values, verdict, phase)
                    best_step = trainer.step_count if better else best_step
                    took = time.perf_counter() - check_started
                    checking += took
                    check = Check(trainer.seen, trainer.step_count, values, better, last, verdict, took)
                    # In this order, a check that a checkpoint continues after is never missing from the metrics.
                    notify("measured", trainer, check)
                    save()
                    notify("checked", trainer, check)
                    since, since_seen = time.perf_counter(), trainer.seen
                if should_stop():
                    save()
                    raise Interrupted(
                        f"stopped at {trainer.seen:,} of {trainer.budget:,} images and saved: "
                        "repeat the command with --resume to continue."
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
        for callback in callbacks if world.is_first else ():
            # If a full disk ended the run, closing a file may fail once more.
            with contextlib.suppress(OSError):
                callback.ended(None)
        raise
    notify("ended", outcome)
    return outcome


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turn signals into requests to stop after the step; a second Ctrl-C interrupts at once."""
    requested = threading.Event()
    with contextlib.ExitStack() as stack:

        def request(number: int) -> None:
            if requested.is_set() and number == signal.SIGINT:
                stack.close()  # back to the handler outside of training
                signal.raise_signal(number)
            requested.set()

        stack.enter_context(handle_stop_signals(request))
        yield requested.is_set
