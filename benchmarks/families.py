"""Autoencoder, VAE and GAN on MNIST: one command, one page; and equal results after an interruption.

    python benchmarks/families.py [--minutes 3]

`ectype compare ae vae gan --data mnist --minutes 3` is interrupted half-way and started again. Then each run is
trained once more without interruption, by the command that its report prints, and all figures of both must be equal.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import DATA, KEPT, Row, arguments, console, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ectype.analysis.report.page import reproduction_commands
from ectype.analysis.results import evaluate
from ectype.runs.run_dir import RunDir

ARMS = ("ae", "vae", "gan")
ECTYPE = [sys.executable, "-m", "ectype.cli"]
STOPPED = 75
"""Exit code of a run that was interrupted and saved."""


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(3, "of training for each"))
    minutes = 1 if given.quick else given.minutes
    place = KEPT / "families"
    shutil.rmtree(place, ignore_errors=True)
    command = [*ECTYPE, "compare", *ARMS, "--data", str(DATA / "mnist"), "--minutes", str(minutes), "--out", str(place)]
    process, began = subprocess.Popen(command), time.perf_counter()
    time.sleep(60 * minutes * len(ARMS) / 2)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    ended = [name for name in ARMS if RunDir(place / f"{name}-0").ended]
    console.print(f"interrupted half-way: exit code {code}; ended by then: {', '.join(ended) or 'none'}")
    subprocess.run(command, check=True)
    took = time.perf_counter() - began
    rows = [Row("interrupted half-way: exit code", STOPPED, code, None, "75", code == STOPPED)]
    rows.append(Row("size of the page, MB", 15, (place / "comparison.html").stat().st_size / 1e6, None, "< 15"))
    for name in ARMS:
        run = RunDir(place / f"{name}-0")
        (words,) = reproduction_commands(run)
        again = Path(shlex.split(words)[-1])
        shutil.rmtree(again, ignore_errors=True)
        subprocess.run([*ECTYPE, *shlex.split(words)[1:], f"run.threads={run.recipe.run.threads}"], check=True)
        ours, theirs = (json.loads(evaluate(each).to_json())["figures"] for each in (run, RunDir(again)))
        same = sum(one == other for one, other in zip(ours, theirs, strict=True))
        detail = f"{run.seen():,} images; {run.state()}"
        rows.append(
            Row(
                f"{name}: figures equal to those without interruption",
                len(theirs),
                same,
                None,
                "all",
                same == len(theirs),
                detail,
            )
        )
    notes = [
        f"{took / 60:.1f} minutes for all three, measured and on one page, including an interruption of one second."
    ]
    said = (place / "comparison.html").read_text(encoding="utf-8")
    console.print(f"{len(said) / 1e6:.1f} MB of page")
    tell("families", "Autoencoder, VAE or GAN on MNIST", rows, notes)


if __name__ == "__main__":
    main()
