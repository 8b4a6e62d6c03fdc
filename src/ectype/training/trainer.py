"""One training step of any objective: for each turn, a loss, its gradient, and an update of one player."""

from __future__ import annotations

import copy
import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ectype.config.recipe import Recipe
from ectype.core.distributed import World
from ectype.core.errors import EctypeWarning, RecipeError, TrainingError, did_you_mean
from ectype.core.memory import half_micro_batch, out_of_memory, release_memory
from ectype.core.random import EpochOrder, SeededStepContext
from ectype.data.batch import Batch
from ectype.objectives.base import Objective, Turn
from ectype.training.ema import WeightAverage
from ectype.training.freeze import FreezeOthers, RunningStatistics
from ectype.training.optimizers import PlayerOptimizer

__all__ = ["Diverged", "BatchLoader", "Trainer"]


@runtime_checkable
class BatchLoader(Protocol):
    """Returns training images by their index as a batch: augmented, binarized, on the device."""

    def __len__(self) -> int: ...

    def __call__(self, index: Int[Tensor, " b"], context: SeededStepContext) -> Batch:
        """Return the images of these indices."""
        ...


class Diverged(TrainingError):
    """A loss or gradient is not finite. The update was not made; the batch is kept as evidence."""

    def __init__(self, turn: str, culprit: str, values: dict[str, float], batch: Batch, step: int, seen: int) -> None:
        super().__init__(
            f"{culprit} is not a finite number at step {step} ({seen:,} images): the update was not made. "
            "Try a smaller optimizer.lr, or optimizer.clip=1."
        )
        self.turn, self.values, self.batch, self.step, self.seen = (turn, values, batch, step, seen)


class _Losses(NamedTuple):
    """Losses and notes of one update, averaged over this process's part of the batch."""

    values: dict[str, Tensor]
    notes: dict[str, Tensor]
    batch: Batch


class Trainer:
    """Holds players, their optimizers, the averaged model, and two counters: images seen and updates made.

    What `step` does depends only on these and on the recipe, never on a clock.

    Args:
        objective: The players and their turns.
        loader: Returns training images by their index.
        recipe: The complete recipe of the run.
        budget: Images to train on.
        device: Where the objective is.
        world: The processes that share the work.

    Attributes:
        seen: Images shown so far.
        step_count: Updates made so far.
    """

    def __init__(
        self,
        objective: Objective,
        loader: BatchLoader,
        recipe: Recipe,
        *,
        budget: int,
        device: torch.device,
        world: World,
    ) -> None:
        self.objective, self.loader, self.recipe, self.world, self.device = (objective, loader, recipe, world, device)
        self.budget = budget
        self.seen = 0
        self.step_count = 0
        train = recipe.train
        self.batch = train.batch
        asked = recipe.run.micro_batch
        self.micro_batch = None if asked == "auto" else asked
        """Images per forward pass; None for all of this process's part of a batch."""
        # A recipe may hold settings of a critic that is switched off.
        known = [*objective.players, "critic"]
        if unknown := next((name for name in recipe.optimizer.players if name not in known), None):
            raise RecipeError(f"optimizer.players.{unknown}: there is no such player; {did_you_mean(unknown, known)}")
        self.order = EpochOrder(len(loader), train.seed)
        self.optimizers = {
            name: PlayerOptimizer(player, recipe.optimizer.for_player(name), budget)
            for name, player in objective.players.items()
        }
        self.average = WeightAverage(objective.model, train.ema_images) if train.ema_images else None
        bf16 = train.precision == "bf16" or (train.precision == "auto" and device.type == "cuda")
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=True)
        self._freeze_others = {name: FreezeOthers(objective, name) for name in objective.players}
        self._running_statistics = {name: RunningStatistics(player) for name, player in objective.players.items()}
        self._sums: dict[str, tuple[float, int]] = {}
        objective.train()

    @property
    def model(self) -> nn.Module:
        """The model that is evaluated and saved: the averaged one if there is one."""
        return self.objective.model if self.average is None else self.average.model

    def restart_ema(self) -> None:
        """Reset the averaged weights to the current weights."""
        if self.average is not None:
            self.average.model.load_state_dict(self.objective.model.state_dict())

    def dry_run_copy(self) -> Trainer:
        """Return a copy for measurements, such as how long a step takes."""
        objective = copy.deepcopy(self.objective)
        objective.activate_all_players()
        trainer = Trainer(objective, self.loader, self.recipe, budget=self.budget, device=self.device, world=self.world)
        trainer.micro_batch = self.micro_batch
        return trainer

    def step(self) -> None:
        """Train on one global batch: play every turn that is due, then update the averaged weights.

        Raises:
            Diverged: A loss or gradient is not finite.
            TrainingError: There is not enough memory for one image at a time.
        """
        index = self.order.take(self.seen, self.batch)
        for turn in self.objective.turns:
            due = self.step_count % turn.every == 0 and self.seen >= turn.starts
            if due and (turn.is_active is None or turn.is_active()):
                self._take_turn(turn, index)
        self.world.average_buffers(self.objective)
        self.seen += self.batch
        if self.average is not None:
            self.average.update(self.batch, self.seen)
        self.step_count += 1

    @property
    def max_local_batch(self) -> int:
        """Images of a global batch in the process that has the most of them."""
        return -(-self.batch // self.world.size)

    def _micro_batches(self) -> list[range]:
        """Return this process's part of the global batch, split into micro-batches."""
        local = self.world.local_indices(self.batch)
        size = self.micro_batch or self.max_local_batch
        return [local[start : start + size] for start in range(0, len(local), size)]

    def _compute_gradients(self, turn: Turn, index: Int[Tensor, " b"]) -> _Losses:
        """Accumulate gradients over the micro-batches, and return the averaged losses and notes."""
        values: dict[str, Tensor] = {}
        notes: dict[str, Tensor] = {}
        batch = None
        with self._freeze_others[turn.player]():
            for part in self._micro_batches():
                context = SeededStepContext(
                    self.recipe.train.seed, self.seen, self.step_count, turn.player, part.start, self.batch, self.device
                )
                batch = self.loader(index[part.start : part.stop], context)
                weight = len(part) / self.batch  # of this micro-batch in the mean over the global batch
                with self.autocast:
                    loss = turn.score(batch, context)
                    total = loss.total()
                (total if weight == 1 else total * weight).backward()
                for name, (_, value) in loss.terms.items():
                    _add(values, name, value, weight)
                _add(values, "total", total, weight)
                for name, value in loss.notes.items():
                    _add(notes, name, value, weight)
        assert batch is not None
        return _Losses(values, notes, batch)

    def _try_gradients(self, turn: Turn, index: Int[Tensor, " b"]) -> _Losses | None:
        """Compute gradients. Return None, with everything as before, if any process ran out of memory."""
        statistics, losses = self._running_statistics[turn.player], None
        self.optimizers[turn.player].zero_grad()
        statistics.save()
        try:
            losses = self._compute_gradients(turn, index)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # All processes agree at each update: one that failed cannot take part in the sum of gradients, where the
        # others would wait for it.
        if self.world.any(losses is None):
            statistics.restore()
            self.optimizers[turn.player].zero_grad()
            release_memory(self.device)
            return None
        return losses

    def _halve_micro_batch(self) -> None:
        before = min(self.micro_batch or self.max_local_batch, self.max_local_batch)
        if before == 1:
            raise TrainingError(
                "there is not enough memory for one image at a time: choose a smaller data.size or a narrower model"
                + ("." if self.recipe.run.checkpoint_activations else ", or run.checkpoint_activations=true.")
            )
        self.micro_batch = half_micro_batch(before)
        if self.world.is_first:
            why = (
                f"; {self.objective.batch_dependent}, so this changes what is computed"
                if self.objective.batch_dependent
                else ""
            )
            warnings.warn(
                f"out of memory with {before} images at a time: continuing with {self.micro_batch}; batches still have "
                f"{self.batch} images{why}.",
                EctypeWarning,
                stacklevel=2,
            )

    def _take_turn(self, turn: Turn, index: Int[Tensor, " b"]) -> None:
        optimizer = self.optimizers[turn.player]
        while (losses := self._try_gradients(turn, index)) is None:
            self._halve_micro_batch()
        values, notes, batch = losses
        gradients = optimizer.gradients(self.seen)
        self.world.sum([*gradients, *values.values(), *notes.values()])
        norm = optimizer.norm(gradients)
        # Read all values at once: each read of a device waits for it. Notes with several elements, such as the counts
        # of a codebook, are for `after` only.
        scalars = {name: note for name, note in notes.items() if note.ndim == 0}
        measured = {**values, **scalars, "gradient norm": norm}
        logged = dict(zip(measured, torch.stack([value.float() for value in measured.values()]).tolist(), strict=True))
        # A loss may be finite while its gradient is not, and vice versa.
        if not math.isfinite(logged["total"]) or not math.isfinite(logged["gradient norm"]):
            culprit = next(f"'{name}'" for name, value in logged.items() if not math.isfinite(value))
            raise Diverged(turn.player, culprit, logged, batch, self.step_count, self.seen)
        logged["rate"] = optimizer.step(self.seen, norm)
        if turn.after is not None:
            turn.after(notes)
        prefix = f"{turn.player}/" if len(self.objective.players) > 1 else ""
        for name, value in logged.items():
            total, n = self._sums.get(prefix + name, (0.0, 0))
            self._sums[prefix + name] = (total + value, n + 1)

    def take_metrics(self) -> dict[str, float]:
        """Return the means of all losses and notes since the last call."""
        taken = {name: total / n for name, (total, n) in self._sums.items()}
        self._sums.clear()
        return taken

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors of a checkpoint, by file."""
        held = {"objective": dict(self.objective.state_dict())}
        for name, optimizer in self.optimizers.items():
            held[f"optimizer-{name}"] = optimizer.tensors()
        if self.average is not None:
            held["average"] = dict(self.average.model.state_dict())
        return held

    def load(self, tensors: dict[str, dict[str, Tensor]], *, seen: int, steps: int) -> None:
        """Continue from the tensors of a checkpoint."""
        self.objective.load_state_dict(tensors["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load(tensors[f"optimizer-{name}"])
        if self.average is not None:
            self.average.model.load_state_dict(tensors["average"])
        self.seen, self.step_count = seen, steps
        self._sums.clear()


def _add(into: dict[str, Tensor], name: str, value: Tensor, weight: float) -> None:
    value = value.detach() if weight == 1 else value.detach() * weight
    into[name] = into[name] + value if name in into else value
