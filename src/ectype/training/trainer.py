"""The loop that plays any objective: for each turn, a score, its gradient, and one player's move."""

from __future__ import annotations

import copy
import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ectype.data.batch import Batch
from ectype.errors import EctypeWarning, RecipeError, TrainingError, did_you_mean
from ectype.objectives.base import Objective, Turn
from ectype.recipe import Recipe
from ectype.training.average import Average
from ectype.training.distributed import World
from ectype.training.memory import halved, out_of_memory, release
from ectype.training.optimizers import Mover
from ectype.training.position import Order, Position
from ectype.training.still import RunningStatistics, Still

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


class _Scored(NamedTuple):
    """What one move is made from, beside the gradients; averaged over this process's share of the batch."""

    values: dict[str, Tensor]
    notes: dict[str, Tensor]
    batch: Batch


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
        asked = recipe.run.micro_batch
        self.micro_batch = None if asked == "auto" else asked
        """Images per forward pass; None for this process's whole share of a batch."""
        # A critic may be switched off in a recipe that says how it would move.
        known = [*objective.players, "critic"]
        if unknown := next((name for name in recipe.optimizer.players if name not in known), None):
            raise RecipeError(f"optimizer.players.{unknown}: no such player; {did_you_mean(unknown, known)}")
        self.order = Order(len(feed), train.seed)
        self.movers = {
            name: Mover(player, recipe.optimizer.of(name), budget) for name, player in objective.players.items()
        }
        self.average = Average(objective.model, train.ema_images) if train.ema_images else None
        bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=True)
        self._still = {name: Still(objective, name) for name in objective.players}
        self._statistics = {name: RunningStatistics(player) for name, player in objective.players.items()}
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
        objective = copy.deepcopy(self.objective)
        objective.rehearse()
        trainer = Trainer(objective, self.feed, self.recipe, budget=self.budget, device=self.device, world=self.world)
        trainer.micro_batch = self.micro_batch
        return trainer

    def step(self) -> None:
        """Show one global batch: every turn that is due, then the averaged model's step.

        Raises:
            Diverged: A loss or gradient is not finite.
            TrainingError: Memory does not suffice for one image at a time.
        """
        index = self.order.take(self.seen, self.batch)
        for turn in self.objective.turns:
            due = self.step_count % turn.every == 0 and self.seen >= turn.starts
            if due and (turn.ready is None or turn.ready()):
                self._play(turn, index)
        self.world.average_buffers(self.objective)
        self.seen += self.batch
        if self.average is not None:
            self.average.follow(self.batch, self.seen)
        self.step_count += 1

    @property
    def share(self) -> int:
        """Images of a batch that the process with the most of them has."""
        return -(-self.batch // self.world.size)

    def _parts(self) -> list[range]:
        """This process's share of the batch, in pieces of the micro-batch's size."""
        share = self.world.share(self.batch)
        size = self.micro_batch or self.share
        return [share[start : start + size] for start in range(0, len(share), size)]

    def _score(self, turn: Turn, index: Int[Tensor, " b"]) -> _Scored:
        """Gradients, and all that is said of them, piece by piece."""
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
        assert batch is not None
        return _Scored(values, notes, batch)

    def _try(self, turn: Turn, index: Int[Tensor, " b"]) -> _Scored | None:
        """The same, or None where memory did not suffice, in any process: then all is as it was before."""
        statistics, scored = self._statistics[turn.player], None
        self.movers[turn.player].clear()
        statistics.keep()
        try:
            scored = self._score(turn, index)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Asked at each move: who has failed cannot take part in the sum of gradients, and the others would wait there.
        if self.world.any(scored is None):
            statistics.put_back()
            self.movers[turn.player].clear()
            release(self.device)
            return None
        return scored

    def _halve(self) -> None:
        before = min(self.micro_batch or self.share, self.share)
        if before == 1:
            raise TrainingError(
                "memory does not suffice for one image at a time: choose a smaller data.size or width of the model"
                + ("." if self.recipe.run.checkpoint_activations else ", or run.checkpoint_activations=true.")
            )
        self.micro_batch = halved(before)
        if self.world.first:
            why = f"; {self.objective.whole}, so this changes what is computed" if self.objective.whole else ""
            warnings.warn(
                f"out of memory with {before} images at a time: going on with {self.micro_batch}; batches still have "
                f"{self.batch}{why}.",
                EctypeWarning,
                stacklevel=2,
            )

    def _play(self, turn: Turn, index: Int[Tensor, " b"]) -> None:
        mover = self.movers[turn.player]
        while (scored := self._try(turn, index)) is None:
            self._halve()
        values, notes, batch = scored
        gradients = mover.gradients(self.seen)
        self.world.sum([*gradients, *values.values(), *notes.values()])
        norm = mover.norm(gradients)
        # One reading for all numbers. Kept as tensors, they would scatter small pieces over the heap at each step.
        # Notes of many numbers (a codebook's counts) are for `after` alone.
        told = {name: note for name, note in notes.items() if note.ndim == 0}
        measured = {**values, **told, "gradient norm": norm}
        said = dict(zip(measured, torch.stack([value.float() for value in measured.values()]).tolist(), strict=True))
        # A loss may be finite and its gradient not, and the other way round: both are asked.
        if not math.isfinite(said["total"]) or not math.isfinite(said["gradient norm"]):
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
