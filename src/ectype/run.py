"""Assembles a run from a recipe and images, and goes back to runs that were made."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn

from ectype.data.feed import Feed
from ectype.data.preview import save_grid
from ectype.data.store import Store
from ectype.errors import CheckpointError, EctypeWarning, RecipeError, RunError
from ectype.measure.validation import validation
from ectype.models.base import StartsFromData
from ectype.objectives.base import Objective, Validates
from ectype.recipe import Recipe, differences, load_recipe
from ectype.results import keep, load, open_data
from ectype.training import checkpoint
from ectype.training.distributed import World, choose_device, launched
from ectype.training.environment import EXACT, environment, numerics
from ectype.training.loop import Callback, Choices, Outcome, choose, fit
from ectype.training.monitor import Monitor
from ectype.training.position import derive, looking
from ectype.training.rundir import RunDir, find_runs, numbered
from ectype.training.trainer import Diverged, Trainer
from ectype.training.watch import JsonLines, Pictures, ProgressDisplay, TensorBoard, to_uint8

__all__ = ["resolve", "train"]


def resolve(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Recipe:
    """A recipe with its data and overrides in place.

    Raises:
        RecipeError: An unknown preset or key, or a value that its key does not admit.
    """
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    if isinstance(recipe, Recipe) and overrides:
        found = load_recipe(recipe.plain(), overrides)
    if data is not None:
        text = str(data)
        found = found.override({"data.source": str(Path(text).resolve()) if Path(text).exists() else text})
    if found.data.source is None:
        raise RecipeError("no images named: give a folder, an archive, or a built-in set such as 'digits'.")
    return found


def train(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: bool = False,
    start: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> RunDir:
    """Train, or go on training, and return the run's directory.

    Args:
        recipe: A preset's name, a YAML file, or a recipe.
        data: A folder of images or any other source; see the README.
        overrides: `key=value` texts, or a mapping.
        out: The run's directory: made, or gone on with if it holds the same recipe. A numbered one in `root` if not
            given.
        root: Where numbered runs lie.
        resume: Go on with the newest unfinished run of the same recipe in `root`.
        start: A run whose weights are taken at the start, where names and shapes agree.
        callbacks: Yours; see `ectype.Callback`.
        console: Where to speak; None is silent.

    Raises:
        EctypeError: Anything that a user can mend, in one line.
    """
    found = resolve(recipe, data, overrides)
    device = choose_device(found.run.device)
    with launched(device) as world:
        if found.train.batch < world.size:
            raise RecipeError(f"train.batch={found.train.batch} is less than the {world.size} processes: raise it.")
        run = RunDir(world.agree(str(_place(found, out, Path(root), resume)) if world.first else ""))
        if not world.first:
            console = None
        lock = run.locked() if world.first else nullcontext()
        try:
            with lock, numerics(found):
                _Training(found, run, device, world, console).go(callbacks, start)
        except BaseException:
            if world.first:
                run.forget_if_unbegun()
            raise
    return run


def _place(recipe: Recipe, out: str | Path | None, root: Path, resume: bool) -> Path:
    if out is not None:
        run = RunDir(out)
        if run.recipe_file.is_file():
            _same(run, recipe)
        return run.path
    if resume:
        for run in reversed(find_runs(root)):
            if run.state() != "finished" and not differences(run.recipe, recipe):
                return run.path
        raise RunError(f"no unfinished run of this recipe and data in '{root}': leave --resume out to start one.")
    return numbered(root, recipe.about.name)


def _same(run: RunDir, recipe: Recipe) -> None:
    if changed := differences(run.recipe, recipe):
        keys = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise RunError(f"'{run.path}' was started with another recipe ({keys}): restore these, or give another --out.")


class _Parts(NamedTuple):
    trainer: Trainer
    measure: Callable[[nn.Module], dict[str, float]] | None


class _Training:
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

    def assemble(self, budget: int) -> _Parts:
        """Everything that the recipe makes, at its beginning."""
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(recipe.train.seed, "weights"))
            model = recipe.model.build(self.info)
            objective = recipe.objective.build(model, self.info, images=budget)
        assert isinstance(objective, Objective)
        objective.to(self.device)
        if self.device.type == "cuda":
            objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # documented, not typed
        if self.world.size > 1 or recipe.run.micro_batch is not None:
            self._warn_if_whole(objective)
        if recipe.train.compile:
            for player in objective.players.values():
                for child in player.children():
                    child.compile()
        trainer = Trainer(objective, self.feed, recipe, budget=budget, device=self.device, world=self.world)
        measure = None
        if isinstance(objective, Validates):
            measure = validation(
                objective,
                self.held_out,
                self.info,
                images=recipe.monitor.images,
                seed=recipe.train.seed,
                device=self.device,
            )
        return _Parts(trainer, measure)

    def _warn_if_whole(self, objective: nn.Module) -> None:
        if (why := getattr(objective, "whole", None)) and self.world.first:
            warnings.warn(
                f"{why}: splitting batches of {self.recipe.train.batch} changes what is computed.",
                EctypeWarning,
                stacklevel=2,
            )

    def go(self, callbacks: Sequence[Callback], start: str | Path | None) -> None:
        # The first process decides for all: another might look when this one has saved already.
        place = self.world.agree(checkpoint.latest(self.run.checkpoints) if self.world.first else None)
        began = time.perf_counter()
        if place is None and self.world.first and (there := checkpoint.places(self.run.checkpoints)):
            raise CheckpointError(
                f"none of the {len(there)} checkpoints in '{self.run.checkpoints}' is whole: "
                "restore one, or give another --out to start again."
            )
        if place is None:
            parts = self.assemble(self.recipe.train.images)
            if isinstance(parts.trainer.objective.model, StartsFromData):
                parts.trainer.objective.model.start_from(_mean_image(self.store).to(self.device))
                parts.trainer.restart_average()
            if start is not None:
                self.say(_warm_start(parts.trainer, start))
            choices = choose(parts.trainer, parts.measure)
            if choices.budget != parts.trainer.budget:
                weights = parts.trainer.objective.state_dict()
                parts = self.assemble(choices.budget)
                parts.trainer.objective.load_state_dict(weights)
                parts.trainer.restart_average()
            monitor = Monitor(choices.every, self.recipe.monitor.patience, self.recipe.monitor.min_delta)
            spent = 0.0
            if self.world.first:
                self.run.begin(self.recipe, environment(self.device))
        else:
            state = checkpoint.load_state(place)
            if state["fingerprint"] != self.prepared.fingerprint:
                raise RunError(
                    f"the images of '{self.run.path}' have changed since it was started: give another --out to train "
                    "on what is there now."
                )
            if self.run.state() in ("finished", "stopped early"):
                self.say(f"{self.run.path} is {self.run.state()}: {self.run.summary()['reason']}.")
                return
            choices, monitor = Choices(**state["choices"]), Monitor.restored(state["monitor"])
            parts = self.assemble(choices.budget)
            files = {file.stem: checkpoint.load_tensors(file) for file in place.glob("*.safetensors")}
            parts.trainer.load(files, seen=state["seen"], steps=state["step"])
            spent = state["seconds"]
            if self.world.first:
                self._warn_of_changes()
                self.run.cut_metrics(state["seen"])
            self.say(f"going on from {state['seen']:,} images")
        self._announce(parts.trainer, monitor)

        def save() -> None:
            if self.world.first:
                seconds = spent + time.perf_counter() - began
                self._save(parts.trainer, monitor, choices, seconds)

        if place is None:
            save()
        try:
            outcome = fit(
                parts.trainer,
                monitor,
                parts.measure,
                save=save,
                callbacks=[*self._watchers(), *callbacks],
                log_every=self.recipe.run.log_every,
            )
        except Diverged as error:
            self._keep_evidence(error)
            raise
        if self.world.first:
            self._finish(outcome, monitor, spent + time.perf_counter() - began)

    def _announce(self, trainer: Trainer, monitor: Monitor) -> None:
        numbers = sum(p.numel() for p in trainer.objective.parameters())
        recipe = self.recipe
        limit = "no early stop" if monitor.patience is None else f"stops after {monitor.patience} without a better one"
        moves = {t.player: trainer.budget // (trainer.batch * t.every) for t in trainer.objective.turns}
        said = ", ".join(f"{n:,} updates of {player}" for player, n in moves.items())
        self.say(
            f"{recipe.about.name}: {numbers:,} parameters, {trainer.budget:,} images ({said}), "
            f"a check each {monitor.every:,}, {limit} → {self.run.path}"
        )

    def _watchers(self) -> list[Callback]:
        recipe = self.recipe
        watchers: list[Callback] = [JsonLines(self.run.metrics_file)]
        if recipe.run.pictures and self.world.first:
            size, moment = looking(self.info, recipe.train.seed, self.device)
            shown = [batch.image for batch, _ in self.held_out.sequence(size, moment, most=recipe.run.pictures)]
            watchers.append(Pictures(self.run.samples, torch.cat(shown), seed=recipe.train.seed))
        if recipe.run.tensorboard and self.world.first:
            watchers.append(TensorBoard(self.run.path / "tensorboard"))
        if self.console is not None:
            watchers.append(ProgressDisplay(self.console))
        return watchers

    def _save(self, trainer: Trainer, monitor: Monitor, choices: Choices, seconds: float) -> None:
        state = {
            "seen": trainer.seen,
            "step": trainer.step_count,
            "choices": choices._asdict(),
            "monitor": monitor.state(),
            "fingerprint": self.prepared.fingerprint,
            "seconds": seconds,
        }
        checkpoint.save(self.run.checkpoint(trainer.step_count), trainer.tensors(), state)
        policy = self.recipe.run
        best = None if monitor.best_seen is None or not policy.keep_best else -(-monitor.best_seen // trainer.batch)
        checkpoint.prune(self.run.checkpoints, last=policy.keep_last, best=best, every=policy.keep_every)

    def _warn_of_changes(self) -> None:
        try:
            before = json.loads(self.run.environment_file.read_text())
        except (OSError, ValueError):
            return
        now = environment(self.device)
        changed = [f"{key} {before.get(key)} → {now[key]}" for key in EXACT if before.get(key) != now[key]]
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

    def _finish(self, outcome: Outcome, monitor: Monitor, seconds: float) -> None:
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
                "best": monitor.best if monitor.best_seen is not None else None,
            }
        )
        self.say(
            f"{outcome.state}: {outcome.reason}; {seconds / 60:.1f} minutes; the weights of step {best} are shipped."
        )


def _mean_image(store: Store) -> Tensor:
    """[c, h, w] in [0, 1]: the mean of at most ten thousand training images."""
    images = store.split("train")
    n = min(len(images), 10_000)
    chosen = torch.arange(n) * len(images) // n
    sums = sum(images.gather(some).sum(0, dtype=torch.float64) for some in chosen.split(1000))
    return (torch.as_tensor(sums) / (255 * n)).float()


def _warm_start(trainer: Trainer, start: str | Path) -> str:
    """Take another run's weights where names and shapes agree."""
    theirs = load(start, device="cpu").state_dict()
    ours = trainer.objective.model.state_dict()
    taken = {key: value for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
    if not taken:
        raise RunError(f"no weight of '{start}' fits this model: start from a run of the same kind and size.")
    trainer.objective.model.load_state_dict({**ours, **taken})
    trainer.restart_average()
    return f"took {len(taken)} of {len(ours)} tensors from {start}"
