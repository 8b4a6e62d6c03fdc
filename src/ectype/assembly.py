"""One process's part in one run: everything that a recipe makes, put together, trained and shipped."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from ectype.data.batch import Batch
from ectype.data.feed import Feed, evenly
from ectype.data.preview import save_grid
from ectype.data.store import Store
from ectype.diagnose.early import EarlyWarning
from ectype.errors import CheckpointError, EctypeWarning, RunError, TrainingError
from ectype.loading import keep, load, open_data
from ectype.losses.mixture import Mixture
from ectype.measure.features import Source, choose_extractors
from ectype.measure.reconstruction import baseline_images
from ectype.measure.validation import spoiled, validation
from ectype.measure.verdict import judged_by
from ectype.measure.watching import LEAST_WATCHED, SampleEvidence, SampleWatch
from ectype.models.base import NeedsStart, Samples, StartsFromData, StartsFromWeights, own_parts
from ectype.nets.published import fill, find_published
from ectype.objectives.base import Restarts, Validates
from ectype.recipe import Recipe
from ectype.training import checkpoint
from ectype.training.assemble import assemble
from ectype.training.distributed import World
from ectype.training.environment import EXACT, environment, multiplies_bf16
from ectype.training.loop import Callback, Choices, Outcome, choose, fit
from ectype.training.memory import fitting, peak_memory
from ectype.training.monitor import Monitor, Verdict
from ectype.training.position import looking
from ectype.training.rundir import RunDir
from ectype.training.trainer import Diverged, Trainer
from ectype.training.watch import JsonLines, Pictures, ProgressDisplay, TensorBoard, to_uint8

__all__ = ["Session"]


class _Watch(NamedTuple):
    """What a run is followed by."""

    measure: Callable[[nn.Module], dict[str, float]]
    name: str = ""
    judge: Callable[[Mapping[str, float], Monitor], Verdict] | None = None
    floor: float | None = None
    spread: float = 0.0
    evidence: Callback | None = None


class Session:
    """One process's part in one run, from the images to the shipped model."""

    def __init__(
        self, recipe: Recipe, run: RunDir, device: torch.device, world: World, console: Console | None
    ) -> None:
        self.recipe, self.run, self.device, self.world, self.console = recipe, run, device, world, console
        # One process prepares while the others wait, then find the result.
        if world.first:
            self.prepared, self.store = open_data(recipe.data, console)
        world.agree(None)
        if not world.first:
            self.prepared, self.store = open_data(recipe.data)
        self.info = self.store.info
        self.feed = Feed(self.store.split("train"), recipe.data, device, training=True, seed=recipe.train.seed)
        self.held_out = Feed(self.store.split("val"), recipe.data, device, training=False, seed=recipe.train.seed)

    def say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)

    def assemble(self, budget: int) -> Trainer:
        """Everything that the recipe makes, at its beginning."""
        return assemble(self.recipe, self.info, self.feed, budget=budget, device=self.device, world=self.world)

    def watch(self, trainer: Trainer) -> _Watch | None:
        """What the run is followed by: the loss on held-out images where that says how good the model is, else the
        distance of its samples from them. Only the first process looks.
        """
        recipe, objective = self.recipe, trainer.objective
        if isinstance(objective, Validates):
            seed = recipe.train.seed
            images = recipe.monitor.images
            look = validation(objective, self.held_out, self.info, images=images, seed=seed, device=self.device)
            return _Watch(look, judge=None if objective.phase == "whole" else spoiled)
        if not isinstance(objective.model, Samples):
            return None
        if min(len(self.feed), len(self.held_out)) < LEAST_WATCHED:
            self.say(
                f"{len(self.held_out)} held-out images are too few to follow samples by ({LEAST_WATCHED} are needed): "
                "it trains to the end of its budget, and pictures are all there is to judge it by."
            )
            return None
        if not self.world.first:
            return _Watch(lambda model: {})
        plain = Feed(self.store.split("train"), recipe.data, self.device, training=False, seed=recipe.train.seed)
        chosen = choose_extractors(recipe.monitor.features, Source(plain, self.info, self.prepared.root), quick=True)
        look = SampleWatch(self.info, plain, self.held_out, chosen.extractors, images=recipe.monitor.images)
        self.say(f"{chosen.why}\n{look.summary}")
        evidence = SampleEvidence(look, self.run)
        return _Watch(look, look.name, judged_by(look.reference), look.floor, look.spread, evidence)

    def _warn_if_whole(self, trainer: Trainer) -> None:
        split = self.world.size > 1 or (trainer.micro_batch or trainer.batch) < trainer.batch
        if split and (why := trainer.objective.whole) and self.world.first:
            warnings.warn(
                f"{why}: splitting batches of {self.recipe.train.batch} changes what is computed.",
                EctypeWarning,
                stacklevel=2,
            )

    def go(self, callbacks: Sequence[Callback] = (), start: str | Path | None = None) -> None:
        """Train to an end, from the newest checkpoint if there is one.

        Args:
            callbacks: Beside our own.
            start: A run, a checkpoint, or what `find_published` finds, whose weights to begin with.
        """
        # The first process decides for all: another might look when this one has saved already.
        place = self.world.agree(checkpoint.latest(self.run.checkpoints) if self.world.first else None)
        began = time.perf_counter()
        if place is None and self.world.first and (there := checkpoint.places(self.run.checkpoints)):
            raise CheckpointError(
                f"none of the {len(there)} checkpoints in '{self.run.checkpoints}' is whole: "
                "restore one, or give another --out to start again."
            )
        if place is not None and self.run.trained:
            self._check_images(checkpoint.load_state(place))
            self.say(f"{self.run.path} is {self.run.state()}: {self.run.summary()['reason']}.")
            return
        if place is None:
            trainer = self.assemble(self.recipe.train.images)
            for part in own_parts(trainer.objective):
                if isinstance(part, StartsFromWeights):
                    part.start_from_weights()
                if start is None and isinstance(part, NeedsStart):
                    part.needs_start()
            trainer.restart_average()
            if isinstance(trainer.objective.model, StartsFromData):
                some = partial(_some_images, self.store)
                trainer.objective.model.start_from(_mean_image(self.store).to(self.device), some)
                trainer.restart_average()
            if start is not None:
                self.say(_warm_start(trainer, start))
            watch = self.watch(trainer)
            choices = choose(trainer, watch.measure if watch is not None else None)
            if choices.budget != trainer.budget:
                weights = trainer.objective.state_dict()
                trainer = self.assemble(choices.budget)
                trainer.objective.load_state_dict(weights)
                trainer.restart_average()
            trainer.micro_batch = choices.micro_batch
            monitor, spent = self._monitor(choices, watch), 0.0
            if self.world.first:
                self.run.begin(self.recipe, self._environment(trainer))
        else:
            state = checkpoint.load_state(place)
            self._check_images(state)
            choices, monitor = Choices(**state["choices"]), Monitor.restored(state["monitor"])
            trainer = self.assemble(choices.budget)
            files = {file.stem: checkpoint.load_tensors(file) for file in place.glob("*.safetensors")}
            trainer.load(files, seen=state["seen"], steps=state["step"])
            # What the run found out about memory holds, unless the user asks for something else now.
            same = state.get("micro_batch", self.run.recipe.run.micro_batch) == self.recipe.run.micro_batch
            trainer.micro_batch = choices.micro_batch if same else fitting(trainer)
            watch, spent = self.watch(trainer), state["seconds"]
            if self.world.first:
                self._warn_of_changes(trainer)
                self.run.cut_metrics(state["seen"])
            self.say(f"going on from {state['seen']:,} images")
        self._warn_if_whole(trainer)
        self._announce(trainer, monitor)

        def save() -> None:
            if self.world.first:
                seconds = spent + time.perf_counter() - began
                self._save(trainer, monitor, choices, seconds)

        if place is None:
            save()
        ours = self._watchers()
        if watch is not None and watch.evidence is not None:
            ours.append(watch.evidence)
        try:
            outcome = fit(
                trainer,
                monitor,
                watch.measure if watch is not None else None,
                judge=watch.judge if watch is not None else None,
                save=save,
                callbacks=[*ours, *callbacks],
                log_every=self.recipe.run.log_every,
            )
            if self.world.first:
                here = time.perf_counter() - began
                self._finish(outcome, monitor, spent + here, outcome.check_seconds / max(here, 1e-9))
        except Diverged as error:
            self._keep_evidence(error)
            raise
        except OSError as error:
            raise TrainingError(
                f"a file could not be used ({error}): mend that, or make room; what was saved is kept, and the same "
                "command with --resume goes on from there."
            ) from None
        if trainer.objective.phase == "waiting":
            self.say(
                "the critic's gradient has not counted yet: train on more images, or let it join sooner "
                "(objective.adversary.starts) and after fewer moves (objective.adversary.warmup)."
            )

    def _monitor(self, choices: Choices, watch: _Watch | None) -> Monitor:
        config = self.recipe.monitor
        name, floor, spread = self.world.agree(
            ("", None, 0.0) if watch is None else (watch.name, watch.floor, watch.spread)
        )
        return Monitor(
            choices.every,
            config.patience,
            config.stretch,
            # Two readings of the same generator differ by less than twice their spread, nineteen times in twenty.
            2 * spread if config.min_delta == "auto" else config.min_delta,
            config.smoothing,
            name=name or "the loss on held-out images",
            floor=floor,
            halts=config.on_collapse != "warn",
        )

    def _check_images(self, state: dict[str, Any]) -> None:
        if state["fingerprint"] != self.prepared.fingerprint:
            raise RunError(
                f"the images of '{self.run.path}' have changed since it was started: give another --out to train "
                "on what is there now."
            )

    def _announce(self, trainer: Trainer, monitor: Monitor) -> None:
        numbers = sum(p.numel() for p in trainer.objective.parameters())
        recipe = self.recipe
        limit = "no early stop" if monitor.patience is None else f"stops after {monitor.patience} without a better one"
        if monitor.patience is not None and monitor.stretch:
            limit += f" while the images seen grow {1 + monitor.stretch:.3g}-fold"
        moves = {t.player: trainer.budget // (trainer.batch * t.every) for t in trainer.objective.turns}
        late = {turn.player for turn in trainer.objective.turns if turn.ready is not None}
        said = ", ".join(
            f"{'at most ' if player in late else ''}{n:,} updates of {player}" for player, n in moves.items()
        )
        if trainer.micro_batch is not None and trainer.micro_batch < trainer.share:
            said += f", {trainer.micro_batch:,} of {trainer.batch:,} images at a time"
        self.say(
            f"{recipe.about.name}: {numbers:,} parameters, {trainer.budget:,} images ({said}), "
            f"a check each {monitor.every:,}, {limit} → {self.run.path}"
        )
        convolves = any(isinstance(part, nn.Conv2d) for part in trainer.objective.modules())
        if recipe.train.precision == "auto" and convolves and multiplies_bf16(self.device):
            self.say(
                "this processor has units for bf16: train.precision=bf16, best with channels_last=true, makes "
                "convolutions about twice as fast, at its precision."
            )

    def _watchers(self) -> list[Callback]:
        recipe = self.recipe
        watchers: list[Callback] = [JsonLines(self.run.metrics_file)]
        if recipe.run.pictures and self.world.first:
            size, moment = looking(self.info, recipe.train.seed, self.device)
            shown = [batch for batch, _ in self.held_out.sequence(size, moment, most=recipe.run.pictures)]
            target = [batch.target for batch in shown if batch.target is not None]
            batch = Batch(torch.cat([each.image for each in shown]), None, torch.cat(target) if target else None)
            here = moment(0, len(batch.image))
            watchers.append(Pictures(self.run.samples, batch, here, seed=recipe.train.seed))
        if recipe.run.tensorboard and self.world.first:
            watchers.append(TensorBoard(self.run.path / "tensorboard"))
        if self.console is not None:
            watchers += [ProgressDisplay(self.console), EarlyWarning(self.held_out, self.info, self.say)]
        return watchers

    def _save(self, trainer: Trainer, monitor: Monitor, choices: Choices, seconds: float) -> None:
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
        # Which network a loss finds at hand may change between two parts of a run.
        networks = [part.networks for part in trainer.objective.modules() if isinstance(part, Mixture)]
        return environment(self.device) | {"networks": networks}

    def _warn_of_changes(self, trainer: Trainer) -> None:
        try:
            before = json.loads(self.run.environment_file.read_text())
        except (OSError, ValueError):
            return
        now = self._environment(trainer)
        before.setdefault("networks", now["networks"])
        keys = (*EXACT, "networks")
        changed = [f"{key} {before.get(key)} → {now[key]}" for key in keys if before.get(key) != now[key]]
        if changed:
            warnings.warn(
                f"going on under other conditions ({', '.join(changed)}): results will be close, not bit-equal.",
                EctypeWarning,
                stacklevel=2,
            )

    def _keep_evidence(self, error: Diverged) -> None:
        if not self.world.first:
            return
        place = self.run.path / f"diverged-{error.step:08d}"
        place.mkdir(exist_ok=True)
        save_grid(to_uint8(torch.nan_to_num(error.batch.image)), place / "batch.png")
        (place / "values.json").write_text(json.dumps({"turn": error.turn, "seen": error.seen, **error.values}))
        self._summarise({"state": "failed", "reason": str(error)})

    def _summarise(self, said: dict[str, Any]) -> None:
        self.run.summary_file.write_text(json.dumps(said, indent=1, ensure_ascii=False))

    def _finish(self, outcome: Outcome, monitor: Monitor, seconds: float, looking: float) -> None:
        best = outcome.best_step if outcome.best_step is not None and self.recipe.run.keep_best else outcome.step
        keep(self.run, best, store=self.store)
        self._summarise(
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
                "check_share": round(looking, 4),
            }
        )
        self.say(
            f"{outcome.state}: {outcome.reason}; {seconds / 60:.1f} minutes, {looking:.0%} of them for checks; "
            f"the weights of step {best} are shipped."
        )


def _mean_image(store: Store) -> Tensor:
    """[c, h, w] in [0, 1]: the mean of at most ten thousand training images."""
    images = store.split("train")
    chosen = evenly(len(images), 10_000)
    sums = sum(images.gather(some).sum(0, dtype=torch.float64) for some in chosen.split(1000))
    return (torch.as_tensor(sums) / (255 * len(chosen))).float()


def _some_images(store: Store) -> Tensor:
    """[n, c, h, w] in [0, 1]: training images from all over, as many as baselines are fitted on."""
    images = store.split("train")
    n = baseline_images(len(images), store.info.numbers)
    return images.gather(evenly(len(images), n)).float() / 255


def _warm_start(trainer: Trainer, start: str | Path) -> str:
    """Take another run's, or a checkpoint's, weights where names and shapes agree; all of a published folder's."""
    if (folder := find_published(start)) is not None:
        count = fill(trainer.objective.model, folder)
        said = f"took {count} tensors from {start}"
    else:
        objective = Path(start) / "objective.safetensors"
        if objective.is_file():
            theirs, into = checkpoint.load_tensors(objective), trainer.objective
        else:
            theirs, into = load(Path(start), device="cpu").state_dict(), trainer.objective.model
        ours = into.state_dict()
        taken = {key: value for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
        if not taken:
            raise RunError(f"no weight of '{start}' fits this model: start from a run of the same kind and size.")
        into.load_state_dict({**ours, **taken})
        said = f"took {len(taken)} of {len(ours)} tensors from {start}"
    for part in trainer.objective.modules():
        if isinstance(part, Restarts):
            part.restart()
    trainer.restart_average()
    return said
