"""Parameters that move at a rate of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

__all__ = ["Group", "Grouped", "grouped"]


class Group(NamedTuple):
    """Parameters of a player that move at a rate of their own."""

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0
    """Of the learning rate."""
    starts: int = 0
    """Images seen before they move."""


@runtime_checkable
class Grouped(Protocol):
    """A player, or a part of one, that sets apart some of its parameters."""

    def parameter_groups(self) -> Sequence[Group]:
        """Every trainable parameter once."""
        ...


def grouped(whole: nn.Module) -> list[Group]:
    """The groups that parts of a module ask for, behind one of all its other parameters."""
    asked = [
        group
        for part in whole.modules()
        if part is not whole and isinstance(part, Grouped)
        for group in part.parameter_groups()
    ]
    taken = {parameter for group in asked for parameter in group.parameters}
    return [Group([parameter for parameter in whole.parameters() if parameter not in taken]), *asked]
