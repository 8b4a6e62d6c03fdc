"""`ectype.train`: everything that the command of this name does, and objects in place of paths."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from ectype.analysis.headline import headline_sentence
from ectype.api.run import Run
from ectype.config.recipe import Recipe, parse_overrides
from ectype.config.schema import DataInfo
from ectype.core.console import ActivityConsole, heartbeat
from ectype.core.errors import EctypeError, RecipeError
from ectype.training.loggers import Results, RunLoggers
from ectype.training.loop import Callback
from ectype.training.run import resolve, train_session

__all__ = ["changes_of", "console_for", "source_text", "train"]

Part = nn.Module | Callable[[DataInfo], nn.Module] | str


def train(
    recipe: str | Path | Recipe | Mapping[str, Any],
    data: Any = None,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    images: int | str | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: bool = False,
    start: str | Path | None = None,
    fix: bool = False,
    device: str | None = None,
    encoder: Part | None = None,
    decoder: Part | None = None,
    generator: Part | None = None,
    critic: Part | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | Console = True,
) -> Run:
    """Train a model on images, or continue training.

    Args:
        recipe: The name of a preset (`ectype.presets()`), a YAML file, a mapping, or a `Recipe`.
        data: A folder, archive or any other source that the command line takes; the run of an autoencoder, on whose
            codes `flow` and `latent-gan` train (of images, they train an autoencoder first); or images in memory: a
            NumPy array or tensor [n, h, w], [n, h, w, c] or [n, c, h, w], uint8 or float in [0, 1]; a pair (images,
            labels); a torch `Dataset`; a Hugging Face dataset; or a mapping of split names to these. Images in memory
            are split as those of a folder are.
        overrides: Changes to the recipe: a mapping such as `{"latent_dim": 32}`, or `key=value` texts.
        images: Budget in images shown, counted with repetition, such as 500_000 or "500k".
        minutes: Budget in time, converted to images at the start.
        seed: Seed of weights, order and noise.
        out: The run's directory. It is created, or continued if it holds the same recipe. If it is not given, a
            numbered directory in `root` is created.
        root: The directory of numbered runs.
        resume: Continue the newest unfinished run of the same recipe in `root`.
        start: The initial weights: another run, a diffusers folder, or `user/name` on the Hub.
        fix: Diagnose the run and train again with the advice applied, at most three times.
        device: `cpu`, `cuda`, `mps` or `auto`.
        encoder: Your own network for this part: an `nn.Module`, a function of `DataInfo` that builds one, or the name
            it was registered by (`ectype.register_module`). The same holds for `decoder`, `generator` and `critic`.
        decoder: See `encoder`.
        generator: See `encoder`.
        critic: See `encoder`.
        callbacks: Called during training; see `ectype.Callback`.
        progress: Whether to print progress, or the rich console to print it on.

    Returns:
        The run, trained.

    Raises:
        RecipeError: An unknown preset or key, or an invalid value.
        DataError: The images cannot be used.
        EctypeError: Anything else that you can fix, in one line; see `ectype.EctypeError`.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> squares = (rng.random((200, 8, 8)) > 0.5).astype(np.float32)
    >>> run = train("ae-linear", squares, {"latent_dim": 4}, images=2000, out="runs/squares", progress=False)
    >>> run.evaluate()["psnr"].unit
    'dB'
    """
    changes = changes_of(overrides, images=images, minutes=minutes, seed=seed, device=device)
    parts = {"encoder": encoder, "decoder": decoder, "generator": generator, "critic": critic}
    given = {name: part for name, part in parts.items() if part is not None}
    if given:
        from ectype.nets.registered import overrides_for

        changes = {**overrides_for(recipe, **given), **changes}
    resolved = resolve(recipe, source_text(data), changes, start=start)
    console = console_for(progress)
    with heartbeat(console):
        session = train_session(
            resolved, out=out, root=root, resume=resume, start=start, fix=fix, callbacks=callbacks, console=console
        )
        run = Run(session.run.path, console=console, opener=session.open_data)
        if session.loggers:
            _log_results(session.loggers, run)
    return run


def _log_results(loggers: RunLoggers, run: Run) -> None:
    """Send figures and findings of a trained run to its loggers, and close them."""
    try:
        with suppress(EctypeError):  # what cannot be measured says so when it is asked for
            evaluation, findings = run.evaluate(), run.findings()
            figures = {figure.key: figure.value for figure in evaluation.figures}
            texts = ["\n".join(finding.lines()) for finding in findings]
            loggers.results(Results(figures, headline_sentence(evaluation, findings), texts))
    finally:
        loggers.close()


def changes_of(overrides: Sequence[str] | Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
    """Join overrides and options into one mapping; an option is refused if an override sets the same key."""
    if isinstance(overrides, str):
        overrides = shlex.split(overrides)
    if overrides is None:
        changes: dict[str, Any] = {}
    elif isinstance(overrides, Mapping):
        changes = dict(overrides)
    else:
        changes = dict(parse_overrides(overrides))
    keys = {"images": "train.images", "minutes": "train.minutes", "seed": "train.seed", "device": "run.device"}
    for option, value in options.items():
        if value is None:
            continue
        twice = [key for key in (option, keys[option]) if key in changes]
        if twice:
            raise RecipeError(f"{option}={value!r} and the override {twice[0]}={changes[twice[0]]!r}: leave one out.")
        changes[keys[option]] = value
    return changes


def source_text(data: Any) -> Any:
    """Return data as the text of a source; images in memory are registered first."""
    if data is None or isinstance(data, str | Path):
        return data
    if isinstance(data, Run):
        return data.path
    from ectype.data.sources.memory import register

    return register(data)


def console_for(progress: bool | Console) -> Console | None:
    """Return the console that progress is printed on; None for no progress."""
    if isinstance(progress, Console):
        return progress
    return ActivityConsole() if progress else None
