"""TensorBoard: event files in the run's folder `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ectype.training.loggers.base import End, LoggedRun, Logger, Results

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Writes event files. A run that goes on adds a file to the same folder."""

    name, library, module = "tensorboard", "TensorBoard", "torch.utils.tensorboard"

    def open(self, run: LoggedRun, identity: str | None) -> str:
        place = run.directory.path / "tensorboard"
        self._writer: Any = self.check().SummaryWriter(str(place))
        if identity is None:
            self._writer.add_text("recipe", _code(run.text), 0)
        return "tensorboard"

    def scalars(self, values: Mapping[str, float], seen: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, seen)

    def pictures(self, files: Mapping[str, Path], seen: int) -> None:
        for name, file in files.items():
            with Image.open(file, formats=["PNG"]) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), seen, dataformats="HWC")

    def model(self, folder: Path) -> None:
        self._writer.add_text("model", _code(str(folder.resolve())), 0)  # TensorBoard keeps no files

    def results(self, results: Results, seen: int) -> None:
        self.scalars({f"test/{key}": value for key, value in results.figures.items()}, seen)
        self._writer.add_text("findings", _code(results.text), seen)

    def close(self, end: End) -> None:
        self._writer.close()


def _code(text: str) -> str:
    """Return text as a code block of Markdown, in which it has no other meaning."""
    return "\n".join(f"    {line}" for line in text.splitlines())
