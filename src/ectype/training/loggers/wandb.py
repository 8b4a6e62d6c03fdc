"""Weights & Biases: online if the user has logged in, else offline in the run's folder `wandb`."""

from __future__ import annotations

import netrc
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ectype.training.loggers.base import End, LoggedRun, Logger, Results

__all__ = ["WandbLogger"]

PROJECT = "ectype"
INIT_SECONDS = 30.0
"""How long the server may take to answer at the start; then training goes on without it."""


class WandbLogger(Logger):
    """Logs to a project of W&B, `ectype` unless `WANDB_PROJECT` names another.

    Offline runs are kept with the run and uploaded later with `wandb sync`. One that is continued becomes a second file
    with the same id, which `wandb sync` joins to the first.
    """

    name, library, module = "wandb", "Weights & Biases", "wandb"

    def open(self, run: LoggedRun, identity: str | None) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports of crashes would go to a third party
        os.environ.setdefault("WANDB_SILENT", "true")
        wandb = self._wandb = self.check()
        self._place = run.directory.path / "wandb"
        chosen = os.environ.get("WANDB_MODE")
        offline = chosen == "offline" if chosen else not _has_key()
        identity = identity or secrets.token_hex(5)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity,
            name=run.name,
            dir=str(run.directory.path),
            config=run.recipe,
            mode=chosen or ("offline" if offline else "online"),
            resume=None if offline else "allow",
            settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, save_code=False),
        )
        return identity

    def scalars(self, values: Mapping[str, float], seen: int) -> None:
        self._run.log(dict(values), step=seen)

    def pictures(self, files: Mapping[str, Path], seen: int) -> None:
        self._run.log({name: self._wandb.Image(str(file)) for name, file in files.items()}, step=seen)

    def model(self, folder: Path) -> None:
        # An offline run is uploaded later, when other weights may be selected in the run: it keeps a copy.
        copy = self._place / "model"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"model-{self._run.id}"), "model")
        artifact.add_dir(str(copy), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def results(self, results: Results, seen: int) -> None:
        self._run.summary.update({f"test/{key}": value for key, value in results.figures.items()})
        self._run.summary["findings"] = results.text

    def close(self, end: End) -> None:
        self._run.finish(exit_code=0 if end == "finished" else 1)


def _has_key() -> bool:
    """Return whether the user has given a key of W&B, in the environment or by `wandb login`. Nobody is asked."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = os.environ.get("NETRC") or next(
        (place for place in map(os.path.expanduser, ("~/.netrc", "~/_netrc")) if os.path.exists(place)), ""
    )
    try:
        return bool(file) and netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
