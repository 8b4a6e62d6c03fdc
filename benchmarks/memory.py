"""Memory as data grows: gathering random batches from 10,000 and 500,000 images, and preparing as many.

    python benchmarks/memory.py [--many 500000]

Anonymous memory (RssAnon) belongs to a process. Pages of mapped files (RssFile) are part of the system's page cache:
they are counted here too, but any process that needs memory reclaims them at no cost. Each
case runs in a process of its own. The peer is the array in memory that `torch.load` or a DataLoader over tensors keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZE = 28
MIB = 1024


def memory() -> dict[str, int]:
    """Return RssAnon and RssFile of this process in KiB."""
    text = Path("/proc/self/status").read_text()
    return {key: int(value) for key, value in re.findall(r"(RssAnon|RssFile):\s+(\d+) kB", text)}


class Peak:
    """Largest anonymous memory while a block runs, sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self.anon = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.anon = max(self.anon, memory()["RssAnon"])

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def report(before: dict[str, int], peak: Peak) -> None:
    """Print the memory of a block, in addition to what was used before."""
    after = memory()
    print(json.dumps({"anon": peak.anon - before["RssAnon"], "file": after["RssFile"], "base": before["RssAnon"]}))


def shuffled(gather: Callable[[object], object], count: int) -> None:
    """Gather batches of 128 random images, 2000 of them or all images twice."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(max(2000, 2 * count // 128)):
        gather(torch.randint(0, count, (128,), generator=generator))


def case_prepare(path: str) -> None:
    """Measure the memory of preparing from scratch, in the parent process, which holds the lists of names."""
    from ectype.config.schema import DataConfig
    from ectype.data.prepare import prepare

    before = memory()
    with Peak() as peak:
        prepare(DataConfig(source=path))
    report(before, peak)


def case_ours(path: str) -> None:
    import torch

    from ectype.config.schema import DataConfig
    from ectype.data.dataset import open_store
    from ectype.data.prepare import prepare

    torch.set_num_threads(1)
    config = DataConfig(source=path)
    torch.zeros(128, 1, SIZE, SIZE).index_select(0, torch.zeros(1, dtype=torch.long))
    before = memory()
    with Peak() as peak:
        images = open_store(prepare(config), config).split("train")
        shuffled(images.batch, len(images))
    report(before, peak)


def case_theirs(path: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.zeros(128, 1, SIZE, SIZE).index_select(0, torch.zeros(1, dtype=torch.long))
    before = memory()
    with Peak() as peak:
        images = torch.from_numpy(np.load(path))
        shuffled(lambda index: images[index].float() / 255, len(images))
    report(before, peak)


def measure(case: str, path: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, __file__, "--case", case, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=500_000)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.case:
        globals()[f"case_{choice.case[0]}"](choice.case[1])
        return
    found: dict[str, dict[str, dict[str, int]]] = {"prepare": {}, "ours": {}, "theirs": {}}
    with tempfile.TemporaryDirectory() as name:
        os.environ["ECTYPE_CACHE"] = f"{name}/cache"
        for count in (choice.few, choice.many):
            path = Path(name) / f"{count}.npy"
            np.save(path, np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), np.uint8))
            for case in found:
                found[case][str(count)] = measure(case, path)
    few, many = str(choice.few), str(choice.many)
    titles = {"theirs": "array in memory, images[index]", "ours": "ectype Images.batch", "prepare": "ectype prepare"}
    print(f"images of {SIZE}×{SIZE}; peak MiB of anonymous memory in addition to imports")
    print(f"{'':34}{choice.few:>12,}{choice.many:>12,}{'growth':>10}{'RssFile':>10}")
    for case, title in titles.items():
        a, b = found[case][few]["anon"] / MIB, found[case][many]["anon"] / MIB
        print(f"{title:34}{a:12.1f}{b:12.1f}{b - a:+10.1f}{found[case][many]['file'] / MIB:10.1f}")
    growth = {
        case: (found[case][many]["anon"] - found[case][few]["anon"]) * 1024 / (choice.many - choice.few)
        for case in found
    }
    print(
        f"bytes of anonymous memory for each further image: {growth['theirs']:.0f} in memory, {growth['ours']:.1f} "
        "ours "
        f"(its row, split and label), {growth['prepare']:.0f} while preparing (its name); an image has {SIZE * SIZE}"
    )
    print("RssFile is reclaimable page cache (and libraries): the system takes it back when memory is needed")
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "memory.json").write_text(json.dumps({"kib": found, "bytes_per_image": growth}, indent=1) + "\n")


if __name__ == "__main__":
    main()
