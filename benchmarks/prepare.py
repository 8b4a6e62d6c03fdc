"""Decoding photographs once, compared with torchvision's ImageFolder and DataLoader; then opening the decoded images.

    python benchmarks/prepare.py [--images 800] [--turns 5]

Both read the same JPEGs (1024 pixels wide, cropped from the shared photographs) and produce 256×256 color images of
their center. Ours also hashes them and writes them to disk, flushed; torchvision's are dropped. Both use two processes,
whose start is included in the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ECTYPE_SHARED", ROOT.parent / "shared")) / "data"
SIDE = 256
PROCESSES = 2


def cut(place: Path, count: int) -> None:
    """Write windows of the shared photographs, 1024 × 768, as JPEGs in two class folders."""
    photos = sorted((SHARED / "photos").rglob("*.jpg"))
    draw = random.Random(0)
    pictures = [Image.open(path).convert("RGB") for path in photos]
    for i in range(count):
        picture = pictures[i % len(pictures)]
        width = draw.randint(min(picture.width, 700), min(picture.width, 1024))
        height = min(picture.height, width * 3 // 4)
        left, top = (draw.randint(0, picture.width - width), draw.randint(0, picture.height - height))
        window = picture.resize((1024, 768), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        folder = place / f"class-{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        window.save(folder / f"{i:05d}.jpg", quality=90)


def ours(folder: Path) -> None:
    """Prepare from scratch, as a user's process does."""
    from ectype.config.schema import DataConfig
    from ectype.data.prepare import clean, prepare

    clean()
    prepare(DataConfig(source=str(folder), size=SIDE, channels=3), workers=PROCESSES)


def theirs(folder: Path) -> None:
    """Read the folder once."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    images = ImageFolder(str(folder), Compose([Resize(SIDE), CenterCrop(SIDE), PILToTensor()]))
    for _ in DataLoader(images, batch_size=64, num_workers=PROCESSES):
        pass


def seconds(work: Callable[[Path], None], folder: Path) -> float:
    start = time.perf_counter()
    work(folder)
    return time.perf_counter() - start


def finding(folder: Path, turns: int) -> float:
    """Time a complete process that opens prepared images, imports included."""
    code = (
        "import sys; from ectype.data.prepare import prepare; from ectype.config.recipe import DataConfig; "
        "sys.exit(prepare(DataConfig(source=sys.argv[1], size=int(sys.argv[2]), channels=3)).built)"
    )
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(folder), str(SIDE)], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def many(place: Path, count: int) -> Path:
    """Write a folder of many small files: links to one, since only names, sizes and times are read again."""
    place.mkdir()
    Image.new("RGB", (SIDE, SIDE), "teal").save(place / "0.jpg")
    for i in range(1, count):
        os.link(place / "0.jpg", place / f"{i}.jpg")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--turns", type=int, default=5)
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["ECTYPE_CACHE"] = str(place / "cache")
        cut(place / "photos", choice.images)
        for work in (ours, theirs):  # imports and the page cache, for both
            work(place / "photos")
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(choice.turns):
            times["theirs"].append(seconds(theirs, place / "photos"))
            times["ours"].append(seconds(ours, place / "photos"))
        rates = {who: choice.images / statistics.median(all_) for who, all_ in times.items()}
        ratios = sorted(a / b for a, b in zip(times["theirs"], times["ours"], strict=True))
        found = finding(place / "photos", choice.turns)
        folder = many(place / "many", 10_000)
        ours(folder)
        found_many = finding(folder, choice.turns)
    ratio = statistics.median(ratios)
    print(f"decoding {choice.images} JPEGs of 1024×768 to {SIDE}×{SIDE}, {PROCESSES} processes, {choice.turns} turns")
    print(f"{'':38}images/s")
    print(f"{'torchvision ImageFolder + DataLoader':38}{rates['theirs']:8.0f}")
    print(f"{'ectype prepare (hashed, on disk)':38}{rates['ours']:8.0f}")
    print(f"{'ratio of paired turns, median':38}{ratio:8.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f}; goal 1.5)")
    print(f"finding {choice.images} prepared, whole process:    {found:.2f} s   (goal < 1)")
    print(f"opening 10,000 prepared images, whole process: {found_many:.2f} s   (goal < 1)")
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    record = {
        "images": choice.images,
        "seconds": times,
        "images_per_second": rates,
        "ratio": ratio,
        "found_seconds": found,
        "found_10k_seconds": found_many,
    }
    (results / "prepare.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
