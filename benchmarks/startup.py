"""Start-up time of commands that train nothing: complete processes of `ectype --help` and `ectype presets`.

The baseline is the time to import torch on this machine, which these commands must avoid.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import Row, arguments, process, tell

GOAL = 0.5
ECTYPE = Path(sys.executable).parent / "ectype"
PEERS = {"an empty Python": ["-c", "pass"], "import torch": ["-c", "import torch"]}
COMMANDS = {"ectype --help": ["--help"], "ectype presets": ["presets"]}


def imported(command: Sequence[str]) -> set[str]:
    """Return every module that a command imports."""
    traced = [sys.executable, "-X", "importtime", str(ECTYPE), *command]
    lines = subprocess.run(traced, capture_output=True, text=True, check=True).stderr.splitlines()
    return {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__)
    runs = 5 if given.quick else 11
    walls: dict[str, list[float]] = {}
    for _ in range(runs):  # in turns
        for name, command in PEERS.items():
            walls.setdefault(name, []).append(process([sys.executable, *command])[1].wall)
        for name, command in COMMANDS.items():
            walls.setdefault(name, []).append(process([ECTYPE, *command])[1].wall)
    peer = statistics.median(walls["import torch"])
    rows = []
    for name, command in COMMANDS.items():
        ours, modules = statistics.median(walls[name]), imported(command)
        heavy = "torch imported" if "torch" in modules else "torch not imported"
        detail = f"{min(walls[name]):.2f}–{max(walls[name]):.2f} s; {len(modules)} modules, {heavy}"
        met = ours < GOAL and "torch" not in modules
        rows.append(Row(f"{name}, seconds", peer, ours, ours / peer, f"< {GOAL} s, no torch", met, detail))
    floor = statistics.median(walls["an empty Python"])
    notes = [
        f"Ours: wall time of the whole process, median of {runs}, files already in the system's cache.",
        f"Peer: `python -c 'import torch'`, likewise. An empty Python takes {floor:.3f} s.",
    ]
    tell(
        "startup",
        "Start-up: a command that trains nothing (ours), importing torch (peer)",
        rows,
        notes,
        quick=given.quick,
        walls=walls,
    )


if __name__ == "__main__":
    main()
