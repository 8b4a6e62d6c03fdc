"""The loop that plays any objective: for each turn, a score, its gradient, and one player's move."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ectype.data.batch import Batch
from ectype.errors import TrainingError
from ectype.objectives.base import Objective, Turn
from ectype.recipe import Recipe
from ectype.training.average import Average
from ectype.training.distributed import World
from ectype.training.optimizers import Mover
from ectype.training.position import Order, Position

__all__ = ["Diverged", "Feed", "Trainer"]


@runtime_checkable
class Feed(Protocol):
    """Training images by their index, as a batch at a moment: augmented, binarised, on the device."""

    def __len__(self) -> int: ...

    def __call__(self, index: Int[Tensor, " b"], moment: Position) -> Batch:
        """The images of these indices."""
        ...


class Diverged(TrainingError):
    """A loss or gradient is not a number. The update was not made; the batch is kept as evidence."""

    def __init__(self, turn: str, culprit: str, values: dict[str, float], batch: Batch, step: int, seen: int) -> None:
        super().__init__(
            f"{culprit} is not a finite number at step {step} ({seen:,} images): the update was not made. "
            "Try a smaller optimizer.lr, or optimizer.clip=1."
        )
        self.turn, self.values, self.batch, self.step, self.seen = turn, values, batch, step, seen


class Trainer:
    """Players, their optimizers, the averaged model, and two counters: images seen and updates made.

    Everything that happens in `step` derives from these and from the recipe; nothing is asked of a clock.
    """

    def __init__(
        self, objective: Objective, feed: Feed, recipe: Recipe, *, budget: int, device: torch.device, world: World
    ) -> None:
        self.objective, self.feed, self.recipe, self.world, self.device = objective, feed, recipe, world, device
        self.budget = budget
        self.seen = 0
        self.step_count = 0
        train = recipe.train
        self.batch = train.batch
        self.order = Order(len(feed), train.seed)
        self.movers = {
            name: Mover(player, recipe.optimizer.of(name), budget) for name, player in objective.players.items()
        }
        self.average = Average(objective.model, train.ema_images) if train.ema_images else None
        bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=True)
        self._still = {name: _Still(objective, name) for name in objective.players}
        self._sums: dict[str, tuple[float, int]] = {}
        objective.train()

    @property
    def model(self) -> nn.Module:
        """What is evaluated and shipped: the averaged model where there is one."""
        return self.objective.model if self.average is None else self.average.model

    def restart_average(self) -> None:
        """Have the averaged model begin where the model stands now."""
        if self.average is not None:
            self.average.model.load_state_dict(self.objective.model.state_dict())

    def rehearsal(self) -> Trainer:
        """A copy to try things on, such as how long a step takes."""
        return Trainer(
            copy.deepcopy(self.objective),
            self.feed,
            self.recipe,
            budget=self.budget,
            device=self.device,
            world=self.world,
        )

    def step(self) -> None:
        """Show one global batch: every turn that is due, then the averaged model's step.

        Raises:
            Diverged: A loss or gradient is not finite.
        """
        index = self.order.take(self.seen, self.batch)
        for turn in self.objective.turns:
            if self.step_count % turn.every == 0 and self.seen >= turn.starts:
                self._play(turn, index)
        self.world.average_buffers(self.objective)
        if self.average is not None:
            self.average.follow(self.batch)
        self.seen += self.batch
        self.step_count += 1

    def _parts(self) -> list[range]:
        """This process's share of the batch, in pieces of the micro-batch's size."""
        share = self.world.share(self.batch)
        size = self.recipe.run.micro_batch or max(1, len(share))
        return [share[start : start + size] for start in range(0, len(share), size)]

    def _play(self, turn: Turn, index: Int[Tensor, " b"]) -> None:
        mover = self.movers[turn.player]
        mover.clear()
        values: dict[str, Tensor] = {}
        notes: dict[str, Tensor] = {}
        batch = None
        with self._still[turn.player].others():
            for part in self._parts():
                moment = Position(
                    self.recipe.train.seed, self.seen, self.step_count, turn.player, part.start, self.batch, self.device
                )
                batch = self.feed(index[part.start : part.stop], moment)
                share = len(part) / self.batch
                with self.autocast:
                    scored = turn.score(batch, moment)
                    total = scored.total()
                (total if share == 1 else total * share).backward()
                for name, (_, value) in scored.terms.items():
                    _add(values, name, value, share)
                _add(values, "total", total, share)
                for name, value in scored.notes.items():
                    _add(notes, name, value, share)
        gradients = mover.gradients()
        self.world.sum([*gradients, *values.values(), *notes.values()])
        norm = mover.norm(gradients)
        # One reading for all numbers. Kept as tensors, they would scatter small pieces over the heap at each step.
        # Notes of many numbers (a codebook's counts) are for `after` alone.
        told = {name: note for name, note in notes.items() if note.ndim == 0}
        measured = {**values, **told, "gradient norm": norm}
        said = dict(zip(measured, torch.stack([value.float() for value in measured.values()]).tolist(), strict=True))
        # A loss may be finite and its gradient not, and the other way round: both are asked.
        if not math.isfinite(said["total"]) or not math.isfinite(said["gradient norm"]):
            assert batch is not None
            culprit = next(f"'{name}'" for name, value in said.items() if not math.isfinite(value))
            raise Diverged(turn.player, culprit, said, batch, self.step_count, self.seen)
        said["rate"] = mover.move(self.seen, norm)
        if turn.after is not None:
            turn.after(notes)
        prefix = f"{turn.player}/" if len(self.objective.players) > 1 else ""
        for name, value in said.items():
            total, n = self._sums.get(prefix + name, (0.0, 0))
            self._sums[prefix + name] = (total + value, n + 1)

    def take_metrics(self) -> dict[str, float]:
        """Means of all terms and notes since the last call."""
        taken = {name: total / n for name, (total, n) in self._sums.items()}
        self._sums.clear()
        return taken

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All tensors of a checkpoint, by file."""
        held = {"objective": dict(self.objective.state_dict())}
        for name, mover in self.movers.items():
            held[f"optimizer-{name}"] = mover.tensors()
        if self.average is not None:
            held["average"] = dict(self.average.model.state_dict())
        return held

    def load(self, tensors: dict[str, dict[str, Tensor]], *, seen: int, steps: int) -> None:
        """Go on from a checkpoint."""
        self.objective.load_state_dict(tensors["objective"])
        for name, mover in self.movers.items():
            mover.load(tensors[f"optimizer-{name}"])
        if self.average is not None:
            self.average.model.load_state_dict(tensors["average"])
        self.seen, self.step_count = seen, steps
        self._sums.clear()


def _add(into: dict[str, Tensor], name: str, value: Tensor, share: float) -> None:
    value = value.detach() if share == 1 else value.detach() * share
    into[name] = into[name] + value if name in into else value


class _Still:
    """While one player moves: no gradient for the others, and their BatchNorm statistics stay as they are."""

    def __init__(self, objective: Objective, player: str) -> None:
        moving = set(objective.players[player].parameters())
        self.parameters = [p for p in objective.parameters() if p.requires_grad and p not in moving]
        ours = set(objective.players[player].modules())
        self.norms = [
            m for m in objective.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in ours
        ]

    @contextmanager
    def others(self) -> Iterator[None]:
        tracked = [norm.track_running_stats for norm in self.norms]
        try:
            for parameter in self.parameters:
                parameter.requires_grad_(False)
            for norm in self.norms:
                norm.track_running_stats = False
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)
            for norm, before in zip(self.norms, tracked, strict=True):
                norm.track_running_stats = before
