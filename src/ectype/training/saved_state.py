"""What a checkpoint contains in addition to tensors, as training continues from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ectype.core.errors import CheckpointError
from ectype.evaluation.monitor import Monitor
from ectype.runs import checkpoint
from ectype.training.tuning import TunedSettings

__all__ = ["SavedState", "load_saved_state"]


class SavedState(NamedTuple):
    """The state of training."""

    seen: int
    step: int
    choices: TunedSettings
    monitor: Monitor
    fingerprint: str
    """Of the images."""
    seconds: float
    """Of training so far."""
    micro_batch: Any
    """What the recipe asked for."""


def load_saved_state(place: Path) -> SavedState:
    """Return the state in a checkpoint.

    Raises:
        CheckpointError: It is missing, damaged, or has another form.
    """
    state = checkpoint.load_state(place)
    try:
        return SavedState(
            state["seen"],
            state["step"],
            TunedSettings(**state["choices"]),
            Monitor.restored(state["monitor"]),
            state["fingerprint"],
            float(state["seconds"]),
            state.get("micro_batch"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"'{place / checkpoint.STATE}' has another form than this version writes ({reason}): restore it, or give "
            "another --out."
        ) from None
