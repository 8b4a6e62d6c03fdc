"""A training session: open the images, build model and objective, train, and save the best weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ectype.config.recipe import Recipe
from ectype.config.schema import DataConfig
from ectype.core.console import doing, say
from ectype.core.distributed import World
from ectype.core.environment import BIT_EXACT_KEYS, environment, numerics, set_threads
from ectype.core.errors import CheckpointError, EctypeWarning, RunError, TrainingError
from ectype.core.images import to_uint8
from ectype.core.memory import out_of_memory, peak_memory
from ectype.data.batch import Batch
from ectype.data.dataset import ImageStore
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.prepared import Prepared
from ectype.data.preview import save_grid
from ectype.evaluation.monitor import Monitor
from ectype.losses.weighted import WeightedLoss
from ectype.models.base import (
    InitializesFromData,
    InitializesFromPretrained,
    MayRequirePretrained,
    own_modules,
)
from ectype.models.latent_space import LatentSpaceModel
from ectype.runs import checkpoint
from ectype.runs.json_files import write_json_file
from ectype.runs.load import open_data, ship_checkpoint
from ectype.runs.run_dir import RunDir
from ectype.training.build import build_trainer
from ectype.training.callbacks import JsonLines, Pictures, ProgressDisplay
from ectype.training.early_warning import EarlyWarning
from ectype.training.encoded import encode_once
from ectype.training.initialization import load_initial_weights, mean_image, sample_images
from ectype.training.loggers import RunLoggers
from ectype.training.loop import Callback, Outcome, fit
from ectype.training.micro_batch import find_micro_batch
from ectype.training.monitoring import MonitoredImages, Monitoring, find_monitoring, new_monitor
from ectype.training.on_codes import recipe_after_autoencoder
from ectype.training.saved_state import SavedState, load_saved_state
from ectype.training.speed import find_faster_steps
from ectype.training.trainer import BatchLoader, Diverged, Trainer
from ectype.training.tuning import TunedSettings, tune_settings

__all__ = ["TrainingSession"]


class _Start(NamedTuple):
    """Where training starts or continues."""

    trainer: Trainer
    choices: TunedSettings
    monitor: Monitor
    monitoring: Monitoring | None
    seconds: float
    """Of training so far."""


class TrainingSession:
    """The part of one process in a run, from the images to the saved model.

    Args:
        recipe: The complete recipe.
        run: The run's directory.
        device: Where to train.
        world: The processes that share the work.
        console: Where progress is printed; None prints nothing.
        autoencoder: The run of the autoencoder that is trained before the first step, if one is.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunDir,
        device: torch.device,
        world: World,
        console: Console | None,
        autoencoder: RunDir | None = None,
    ) -> None:
        self.autoencoder = autoencoder
        self.recipe, self.run, self.device, self.world, self.console = (recipe, run, device, world, console)
        # The first process prepares the images while the others wait, then they find the result.
        if world.is_first:
            self.prepared, self.store = open_data(recipe.data, console)
        world.broadcast(None)
        if not world.is_first:
            self.prepared, self.store = open_data(recipe.data)
        self.loggers = RunLoggers(recipe.run.loggers if world.is_first else (), recipe, run)
        self.info = self.store.info
        self.loader: BatchLoader = Loader(
            self.store.split("train"), recipe.data, device, training=True, seed=recipe.train.seed
        )
        self.held_out = Loader(self.store.split("val"), recipe.data, device, training=False, seed=recipe.train.seed)

    def say(self, text: str) -> None:
        say(self.console, text)

    def open_data(self, config: DataConfig) -> tuple[Prepared, ImageStore]:
        """Return the images of a recipe's data section: this session's, if it is the same section."""
        return (self.prepared, self.store) if config == self.recipe.data else open_data(config)

    def build(self, recipe: Recipe, budget: int) -> Trainer:
        """Build a trainer with freshly drawn weights."""
        return build_trainer(recipe, self.info, self.loader, budget=budget, device=self.device, world=self.world)

    def rebuild(self, trainer: Trainer, recipe: Recipe, budget: int) -> Trainer:
        """Build a trainer of another recipe or budget with the weights of one that is at its start."""
        weights = trainer.objective.state_dict()
        made = self.build(recipe, budget)
        made.objective.load_state_dict(weights)
        made.restart_ema()
        made.micro_batch = trainer.micro_batch
        return made

    def _encode_once(self, trainer: Trainer) -> None:
        """Let a model of codes train on codes that are computed in advance, if they stay the same."""
        model = trainer.objective.model
        if isinstance(model, LatentSpaceModel) and isinstance(self.loader, Loader):
            doing(self.console, "encoding the training images")
            self.loader = encode_once(model, self.loader) or self.loader
            trainer.loader = self.loader

    def monitoring(self, trainer: Trainer) -> Monitoring | None:
        """Return how the run is monitored; None if it cannot be."""
        plain = Loader(
            self.store.split("train"), self.recipe.data, self.device, training=False, seed=self.recipe.train.seed
        )
        images = MonitoredImages(plain, self.held_out, self.info, self.prepared.root)
        return find_monitoring(self.recipe, trainer.objective, images, self.run, self.world, self.say)

    def _warn_if_batch_dependent(self, trainer: Trainer) -> None:
        split = self.world.size > 1 or (trainer.micro_batch or trainer.batch) < trainer.batch
        if split and (why := trainer.objective.batch_dependent) and self.world.is_first:
            warnings.warn(
                f"{why}: splitting batches of {self.recipe.train.batch} changes what is computed.",
                EctypeWarning,
                stacklevel=2,
            )

    def go(self, callbacks: Sequence[Callback] = (), start: str | Path | None = None) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            callbacks: Further callbacks.
            start: The initial weights: a run, a checkpoint, or a diffusers folder (see `find_diffusers_folder`).
        """
        # The threads that a run chooses are its own.
        with numerics(self.recipe.run.threads, deterministic=self.recipe.train.deterministic):
            # The first process decides for all, because another one might look after this one has saved a checkpoint.
            place = self.world.broadcast(checkpoint.latest(self.run.checkpoints) if self.world.is_first else None)
            begun = time.perf_counter()
            if place is None and self.world.is_first and (there := checkpoint.checkpoint_dirs(self.run.checkpoints)):
                raise CheckpointError(
                    f"none of the {len(there)} checkpoints in '{self.run.checkpoints}' is whole: "
                    "restore one, or give another --out to start again."
                )
            saved = None if place is None else load_saved_state(place)
            # The checkpoints of a run that has ended may have been removed to save space.
            if self.run.training_ended and (saved is not None or (self.run.model / "config.json").is_file()):
                if saved is not None:
                    self._check_images(saved.fingerprint)
                self.say(f"{self.run.path} is {self.run.state()}: {self.run.summary().get('reason', '')}.")
                return
            ready = self._begin(start) if saved is None or place is None else self._continue(place, saved)
            self._train(ready, begun, callbacks, new=saved is None)

    def _begin(self, start: str | Path | None) -> _Start:
        """Initialize the weights, and choose the settings that are found by timing."""
        recipe = self.recipe if self.autoencoder is None else recipe_after_autoencoder(self.recipe, self.autoencoder)
        trainer = self.build(recipe, recipe.train.images)
        for part in own_modules(trainer.objective):
            if isinstance(part, InitializesFromPretrained):
                part.load_pretrained_weights()
            if start is None and isinstance(part, MayRequirePretrained):
                part.check_trainable_from_scratch()
        if isinstance(trainer.objective.model, InitializesFromData):
            some = partial(sample_images, self.store)
            trainer.objective.model.initialize_from_data(mean_image(self.store).to(self.device), some)
        trainer.restart_ema()
        if start is not None:
            self.say(load_initial_weights(trainer, start))
        self._encode_once(trainer)
        doing(self.console, "comparing real images with each other")
        monitoring = self.monitoring(trainer)
        doing(self.console, "timing training steps")
        trainer.micro_batch = find_micro_batch(trainer)  # before steps of whole batches, which may not fit into memory
        faster = find_faster_steps(trainer, lambda recipe: self.rebuild(trainer, recipe, trainer.budget).dry_run_copy())
        if faster.sentence:
            self.say(faster.sentence)
            set_threads(faster.recipe.run.threads)
            trainer = self.rebuild(trainer, faster.recipe, trainer.budget)
        choices = tune_settings(trainer, monitoring.measure if monitoring is not None else None)
        if choices.budget != trainer.budget:
            trainer = self.rebuild(trainer, faster.recipe, choices.budget)
        trainer.micro_batch = choices.micro_batch
        if self.world.is_first:
            self.run.write_start(self.recipe, self._environment(trainer))
            self.run.truncate_metrics(-1)  # there are some if the checkpoints were removed
        return _Start(
            trainer, choices, new_monitor(self.recipe, choices.every, monitoring, self.world), monitoring, 0.0
        )

    def _continue(self, place: Path, saved: SavedState) -> _Start:
        """Load a checkpoint."""
        self._check_images(saved.fingerprint)
        recipe = saved.choices.applied_to(self.recipe)
        set_threads(recipe.run.threads)
        trainer = self.build(recipe, saved.choices.budget)
        files = {file.stem: checkpoint.load_tensors(file) for file in place.glob("*.safetensors")}
        trainer.load(files, seen=saved.seen, steps=saved.step)
        self._encode_once(trainer)
        # What the run found out about memory holds, unless the user asks for something else now.
        same = saved.micro_batch == self.recipe.run.micro_batch
        trainer.micro_batch = saved.choices.micro_batch if same else find_micro_batch(trainer)
        monitoring = self.monitoring(trainer)
        if self.world.is_first:
            self._warn_of_changes(trainer)
            self.run.truncate_metrics(saved.seen)
        self.say(f"continuing from {saved.seen:,} images")
        return _Start(trainer, saved.choices, saved.monitor, monitoring, saved.seconds)

    def _train(self, start: _Start, begun: float, callbacks: Sequence[Callback], *, new: bool) -> None:
        trainer, choices, monitor, monitoring, spent = start
        self._warn_if_batch_dependent(trainer)
        self._announce(trainer, monitor)

        lines = JsonLines(self.run.metrics_file)

        def save() -> None:
            if self.world.is_first:
                lines.sync()
                self._save(trainer, monitor, choices, spent + time.perf_counter() - begun)

        if new:
            self.loggers.forget()
            save()
        own = [lines, *self._callbacks()]
        if monitoring is not None and monitoring.evidence is not None:
            own.append(monitoring.evidence)
        try:
            outcome = fit(
                trainer,
                monitor,
                monitoring.measure if monitoring is not None else None,
                judge=monitoring.judge if monitoring is not None else None,
                save=save,
                callbacks=[*own, *callbacks],
                log_every=self.recipe.run.log_every,
            )
            if self.world.is_first:
                here = time.perf_counter() - begun
                self._finish(outcome, monitor, spent + here, outcome.check_seconds / max(here, 1e-9))
                self.loggers.model()
        except Diverged as error:
            self._save_evidence(error)
            raise
        except OSError as error:
            raise TrainingError(
                f"a file could not be used ({error}): fix that, or free some space. Checkpoints are kept; "
                "repeat the command with --resume to continue."
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise TrainingError(
                "out of memory while the model was checked or saved. Checkpoints are kept: free some memory, or give "
                "another --out and a smaller monitor.images or data.size; repeat the command with --resume to continue."
            ) from None
        if trainer.objective.critic_phase == "waiting":
            self.say(
                "the critic has not contributed to the loss yet: train on more images, or let it start earlier "
                "(objective.adversary.starts) and after fewer updates (objective.adversary.warmup)."
            )

    def _check_images(self, fingerprint: str) -> None:
        if fingerprint != self.prepared.fingerprint:
            raise RunError(
                f"the images of '{self.run.path}' have changed since the run was started: give another --out to train "
                "on the current images."
            )

    def _announce(self, trainer: Trainer, monitor: Monitor) -> None:
        parameters = sum(p.numel() for p in trainer.objective.parameters())
        recipe = self.recipe
        limit = (
            "no early stop"
            if monitor.patience is None
            else f"stops after {monitor.patience} checks without improvement"
        )
        if monitor.patience is not None and monitor.stretch:
            limit += f" while the images seen grow {1 + monitor.stretch:.3g}-fold"
        updates = {t.player: trainer.budget // (trainer.batch * t.every) for t in trainer.objective.turns}
        late = {turn.player for turn in trainer.objective.turns if turn.is_active is not None}
        details = ", ".join(
            f"{'at most ' if player in late else ''}{n:,} updates of {player}" for player, n in updates.items()
        )
        if trainer.micro_batch is not None and trainer.micro_batch < trainer.max_local_batch:
            details += f", {trainer.micro_batch:,} of {trainer.batch:,} images at a time"
        self.say(
            f"{recipe.about.name}: {parameters:,} parameters, {trainer.budget:,} images ({details}), "
            f"a check every {monitor.every:,} images, {limit} → {self.run.path}"
        )

    def _callbacks(self) -> list[Callback]:
        recipe = self.recipe
        callbacks: list[Callback] = []
        if recipe.run.pictures and self.world.is_first:
            size, context = evaluation_batches(self.info, recipe.train.seed, self.device)
            shown = [batch for batch, _ in self.held_out.batches(size, context, max_images=recipe.run.pictures)]
            target = [batch.target for batch in shown if batch.target is not None]
            batch = Batch(torch.cat([each.image for each in shown]), None, torch.cat(target) if target else None)
            here = context(0, len(batch.image))
            callbacks.append(Pictures(self.run.samples, batch, here, seed=recipe.train.seed))
        callbacks.append(self.loggers)
        if self.console is not None:
            callbacks += [ProgressDisplay(self.console), EarlyWarning(self.held_out, self.info, self.say)]
        return callbacks

    def _save(self, trainer: Trainer, monitor: Monitor, choices: TunedSettings, seconds: float) -> None:
        state = {
            "seen": trainer.seen,
            "step": trainer.step_count,
            "choices": choices._replace(micro_batch=trainer.micro_batch)._asdict(),
            "monitor": monitor.state(),
            "fingerprint": self.prepared.fingerprint,
            "micro_batch": self.recipe.run.micro_batch,
            "seconds": seconds,
        }
        checkpoint.save(self.run.checkpoint(trainer.step_count), trainer.tensors(), state)
        policy = self.recipe.run
        kept = {monitor.best_seen if policy.keep_best else None, monitor.healthy_seen} - {None}
        steps = {-(-seen // trainer.batch) for seen in kept if seen is not None}
        checkpoint.prune(self.run.checkpoints, last=policy.keep_last, kept=steps, every=policy.keep_every)

    def _environment(self, trainer: Trainer) -> dict[str, Any]:
        # The network that a perceptual loss finds may change between two parts of a run.
        networks = [part.networks for part in trainer.objective.modules() if isinstance(part, WeightedLoss)]
        return environment(self.device) | {"networks": networks}

    def _warn_of_changes(self, trainer: Trainer) -> None:
        before, now = self.run.environment(), self._environment(trainer)
        if "ectype" not in before:
            return
        before.setdefault("networks", now["networks"])
        keys = (*BIT_EXACT_KEYS, "networks")
        changed = [f"{key} {before.get(key)} → {now[key]}" for key in keys if before.get(key) != now[key]]
        if changed:
            warnings.warn(
                f"continuing under other conditions ({', '.join(changed)}): results will be close, not bit-equal.",
                EctypeWarning,
                stacklevel=2,
            )

    def _save_evidence(self, error: Diverged) -> None:
        if not self.world.is_first:
            return
        place = self.run.path / f"diverged-{error.step:08d}"
        place.mkdir(exist_ok=True)
        if error.batch.code is None:
            save_grid(to_uint8(torch.nan_to_num(error.batch.image)), place / "batch.png", owned=True)
        write_json_file(place / "values.json", {"turn": error.turn, "seen": error.seen, **error.values})
        self.run.write_summary({"state": "failed", "reason": str(error)})

    def _finish(self, outcome: Outcome, monitor: Monitor, seconds: float, check_share: float) -> None:
        doing(self.console, "saving the model")
        best = outcome.best_step if outcome.best_step is not None and self.recipe.run.keep_best else outcome.step
        ship_checkpoint(self.run, best, store=self.store)
        self.run.write_summary(
            {
                "state": outcome.state,
                "reason": outcome.reason,
                "seen": outcome.seen,
                "step": outcome.step,
                "shipped_step": best,
                "seconds": round(seconds, 1),
                "peak_memory": peak_memory(self.device),
                "best": monitor.best if monitor.best_seen is not None else None,
                "measure": monitor.name,
                "floor": monitor.floor,
                "check_share": round(check_share, 4),
                **({} if self.autoencoder is None else {"autoencoder": self.autoencoder.summary()}),
            }
        )
        self.say(
            f"{outcome.state}: {outcome.reason}; {seconds / 60:.1f} minutes, {check_share:.0%} of them for checks; "
            f"the weights of step {best} are selected."
        )
