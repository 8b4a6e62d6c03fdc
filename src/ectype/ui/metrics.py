"""The metrics of a run while they are written: only what is new is read, and lines that are torn are left out."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from ectype.core.files import open_regular
from ectype.runs.json_files import parse_json_lines
from ectype.runs.run_dir import is_metrics_line

__all__ = ["MetricsReader", "thinned"]

MAX_LINES = 200_000
"""Lines of metrics that are kept; of a longer run, the first ones."""
MAX_STEP_BYTES = 64 * 2**20
"""What is read of a file at a time."""


class MetricsReader:
    """Reads the lines of a file of metrics, and later those that were appended.

    If the file was replaced or has become shorter, as when a run is resumed from an earlier checkpoint, it is read
    again from its start, and `version` changes.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.version = file, 0
        self._lines: list[dict[str, Any]] = []
        self._read, self._inode = 0, 0
        self._lock = threading.Lock()

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines so far, oldest first."""
        with self._lock:
            self._update()
            return list(self._lines)

    def since(self, version: int, count: int) -> tuple[int, int, list[dict[str, Any]]]:
        """Return the version, the number of lines, and those that were added.

        Args:
            version: The version of an earlier call; if it is not the present one, all lines are returned.
            count: The number of lines then.
        """
        with self._lock:
            self._update()
            start = count if version == self.version else 0
            return self.version, len(self._lines), self._lines[start:]

    def last_seen(self) -> int:
        """Return the number of images shown so far."""
        lines = self.lines()
        return lines[-1]["seen"] if lines else 0

    def _update(self) -> None:
        try:
            status = os.lstat(self.file)
        except OSError:
            if self._lines:
                self._restart(0)
            return
        if status.st_ino != self._inode or status.st_size < self._read:
            self._restart(status.st_ino)
        if status.st_size == self._read or len(self._lines) >= MAX_LINES:
            return
        try:
            with open_regular(self.file, follow=False) as opened:
                opened.seek(self._read)
                raw = opened.read(MAX_STEP_BYTES)
        except (OSError, ValueError):
            return
        complete = raw[: raw.rfind(b"\n") + 1]  # the last line may still be being written
        self._read += len(complete)
        self._lines += parse_json_lines(complete, is_metrics_line)[0]

    def _restart(self, inode: int) -> None:
        self._lines, self._read, self._inode = [], 0, inode
        self.version += 1


def thinned(lines: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return at most about `most` lines: every check, and training lines at equal distances with the last one."""
    training = [line for line in lines if line["kind"] == "train"]
    checks = [line for line in lines if line["kind"] == "check"][-most:]
    step = max(1, -(-len(training) // most))
    kept = training[::-1][::step]
    return sorted([*kept, *checks], key=lambda line: (line["seen"], line["kind"] == "check"))
