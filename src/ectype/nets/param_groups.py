"""Groups of parameters with their own learning rate or start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

__all__ = ["HasParameterGroups", "ParameterGroup", "parameter_groups_of"]


class ParameterGroup(NamedTuple):
    """Parameters of a player that are trained with their own learning rate."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    """Factor on the learning rate."""
    starts: int = 0
    """Number of training images seen before the first update."""


@runtime_checkable
class HasParameterGroups(Protocol):
    """A player, or a part of one, that defines groups for its parameters."""

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return groups that contain every trainable parameter exactly once."""
        ...


def parameter_groups_of(module: nn.Module) -> list[ParameterGroup]:
    """Return one group of all other parameters, followed by the groups that the module's parts define.

    Example:
        >>> len(parameter_groups_of(nn.Linear(2, 3)))
        1
    """
    special = [
        group
        for part in module.modules()
        if part is not module and isinstance(part, HasParameterGroups)
        for group in part.parameter_groups()
    ]
    taken = {parameter for group in special for parameter in group.parameters}
    return [ParameterGroup([parameter for parameter in module.parameters() if parameter not in taken]), *special]
