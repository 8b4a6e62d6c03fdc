"""Code that benchmarks share: images, clocks, alternating measurements, a peer's environment, tables and JSON files."""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ECTYPE_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ectype-benchmarks"
"""Directory of what is built once: prepared images and a peer's environment."""
PYTHAE = "0.1.2"

console = Console(highlight=False, width=max(120, Console().width))


def arguments(doc: str | None, **options: tuple[int | float | str, str]) -> argparse.Namespace:
    """Parse `--quick` and options by name → (default, help); an option has the type of its default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a quick check")
    for name, (default, text) in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} ({default})")
    return parser.parse_args()


def mnist(part: Literal["train", "t10k"]) -> np.ndarray:
    """Return MNIST images [n, 1, 28, 28] uint8, read from the original IDX file."""
    file = DATA / "mnist" / f"{part}-images-idx3-ubyte.gz"
    if not file.is_file():
        sys.exit(f"no MNIST at '{file}': set ECTYPE_SHARED to the folder that holds data/mnist.")
    raw = bytearray(gzip.decompress(file.read_bytes()))  # torch expects a writable buffer
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)


# ── Clocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Spent(NamedTuple):
    """Time that something took."""

    wall: float
    cpu: float
    """User and system seconds of all threads."""


class Clock:
    """Seconds since its creation, of this process, or with `children` of processes that it started and that ended."""

    def __init__(self, *, children: bool = False) -> None:
        self.who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
        self.wall, self.cpu = time.perf_counter(), self._cpu()

    def _cpu(self) -> float:
        used = resource.getrusage(self.who)
        return used.ru_utime + used.ru_stime

    def read(self) -> Spent:
        """Return the time so far."""
        return Spent(time.perf_counter() - self.wall, self._cpu() - self.cpu)


def process(command: Sequence[str | int | Path], **environment: str | int | Path) -> tuple[str, Spent]:
    """Run a command to its end; return its standard output and the time of the whole process.

    Its standard error is shown only if it fails.
    """
    clock = Clock(children=True)
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True, check=False)
    spent = clock.read()
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout, spent


def last_json(text: str) -> dict[str, Any]:
    """Return the last line of an output, parsed as JSON."""
    return json.loads(text.strip().splitlines()[-1])


class Pairs(NamedTuple):
    """Values of two contestants, measured alternately."""

    peer: list[float]
    ours: list[float]

    @property
    def of_medians(self) -> float:
        """Median of ours divided by the peer's."""
        return statistics.median(self.ours) / statistics.median(self.peer)

    @property
    def ratios(self) -> list[float]:
        """Ours divided by the peer's for each pair; what slows the machine down affects both of a pair."""
        return [ours / peer for ours, peer in zip(self.ours, self.peer, strict=True)]

    @property
    def quartiles(self) -> tuple[float, float]:
        """Quartiles of the pairs' ratios."""
        low, _, high = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else self.ratios * 3
        return low, high


def in_turns(
    peer: Callable[[], Mapping[str, float]], ours: Callable[[], Mapping[str, float]], pairs: int
) -> dict[str, Pairs]:
    """Measure two contestants alternately, swapping the order with each pair; return name of a figure → pairs."""
    found: dict[str, Pairs] = {}
    for turn in range(pairs):
        order = ((peer, 0), (ours, 1)) if turn % 2 == 0 else ((ours, 1), (peer, 0))
        for measure, side in order:
            for name, value in measure().items():
                found.setdefault(name, Pairs([], []))[side].append(value)
    return found


def fastest() -> list[str]:
    """Return the overrides that train in bf16 if this processor has units for it."""
    import torch

    from ectype.core.environment import has_bf16_units

    return ["train.precision=bf16"] if has_bf16_units(torch.device("cpu")) else []


def side_by_side(trial: Callable[[Any], Any], work: Sequence[Any], processes: int) -> Iterator[Any]:
    """Yield the result of each piece of work, each in a process of its own, in the order in which they end."""
    with get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(trial, work)


def once(name: str, key: Any, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the stored result of a key, or compute and store it, so that an interrupted benchmark continues.

    The key includes the code of evaluation and diagnosis: after a change there, results are computed again.
    """
    judges = b"".join(
        file.read_bytes()
        for part in ("evaluation", "analysis")
        for file in sorted((ROOT / "src" / "ectype" / part).rglob("*.py"))
    )
    said = json.dumps([key, hashlib.blake2b(judges).hexdigest()], sort_keys=True, default=str)
    file = KEPT / name / f"{hashlib.blake2b(said.encode(), digest_size=8).hexdigest()}.json"
    if file.is_file():
        return json.loads(file.read_text())
    found = find()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found))
    return found


def emoji(first: int, n: int, side: int) -> Path:
    """Return a file of `n` emoji of `side` pixels in a fixed random order, from position `first` on."""
    file = KEPT / f"emoji-{side}-{first}-{n}.npy"
    if not file.is_file():
        names = sorted((DATA / "emoji64").rglob("*.png"))
        chosen = np.random.default_rng(0).permutation(len(names))[first : first + n]
        images = [Image.open(names[i]).convert("RGB").resize((side, side), Image.Resampling.BOX) for i in chosen]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.stack([np.asarray(image) for image in images]))
    return file


# ── A peer's environment ─────────────────────────────────────────────────────────────────────────────────────────────


def peer_python(name: str, *packages: str) -> Path:
    """Return the Python of an environment with some packages and the torch version of this one; built once."""
    torch = version("torch").split("+")[0]
    place = KEPT / f"{name}-torch-{torch}"
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():
        console.print(f"creating an environment for {', '.join(packages)} in {place} …")
        venv.create(place, with_pip=True, clear=True)
        process([python, "-m", "pip", "install", "--quiet", *packages, f"torch=={torch}"])
        ready.touch()
    return python


def pythae_python() -> Path:
    """Return the Python of an environment with pythae."""
    return peer_python(f"pythae-{PYTHAE}", f"pythae=={PYTHAE}")


# ── Telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """One comparison."""

    what: str
    peer: float
    ours: float
    ratio: float | None
    """Ours divided by the peer's; None where the two are no such pair."""
    goal: str = ""
    """The goal, in words."""
    met: bool | None = None
    detail: str = ""
    """Spread, and anything else that belongs to the figure."""


def tell(name: str, title: str, rows: Sequence[Row], notes: Sequence[str], **raw: Any) -> None:
    """Print a table and its notes, and write both with all measurements to results/<name>.json.

    Args:
        name: Name of the benchmark.
        title: What is compared with what.
        rows: The figures.
        notes: What was compared, and under which conditions.
        raw: Single measurements behind the figures.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "peer", "ours", "ratio", "goal", ""):
        table.add_column(heading, justify="right" if heading in ("peer", "ours", "ratio") else "left")
    for row in rows:
        mark = "" if row.met is None else " ✓" if row.met else " ✗"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        table.add_row(row.what, _short(row.peer), _short(row.ours), ratio, row.goal + mark, row.detail)
    console.print(table)
    for note in notes:
        console.print(f"· {note}", markup=False)
    said = {
        "benchmark": name,
        "title": title,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("ectype", "torch", "numpy")}},
        "rows": [row._asdict() for row in rows],
        "notes": list(notes),
        **raw,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(_finite(said), indent=1, ensure_ascii=False) + "\n")
    console.print(f"→ {(RESULTS / f'{name}.json').relative_to(ROOT)}")


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _finite(value: Any) -> Any:
    """Replace values that JSON cannot hold by None."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    return {
        "processor": processor,
        "bf16 units": bool(fastest()),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "load at the end": load,
    }
