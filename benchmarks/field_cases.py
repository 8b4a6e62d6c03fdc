"""Small inputs that tools of this kind meet in the field, each put to the command line, with what has to come of it.

    python benchmarks/field_cases.py [FOLDER]

The inputs are written by `cases/make.py` of the shared folder into FOLDER, or into a temporary one. Each check returns
why the outcome is not the right one, or nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from PIL import Image

MAKE = Path(os.environ.get("ECTYPE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "cases" / "make.py"
TIMEOUT = 600
SMALL = ("size=16", "--images", "640")
CHECKS: dict[str, Callable[[Path], str]] = {}


class Said(NamedTuple):
    """How a command ended."""

    code: int
    text: str

    def why_not_one_line(self, *words: str) -> str:
        """Return why this is not an error in one line with these words, or nothing."""
        errors = [line for line in self.text.splitlines() if line.startswith("error:")]
        if "Traceback" in self.text or self.code == 0 or len(errors) != 1:
            return f"not refused in one line: exit {self.code}, {self.text[-300:]!r}"
        missing = [word for word in words if not re.search(word, errors[0])]
        return f"{errors[0]!r} does not say {missing}" if missing else ""

    def why_without(self, *words: str) -> str:
        """Return which of these words a successful command did not say, or nothing."""
        if self.code:
            return f"exit {self.code}: {self.text[-300:]!r}"
        missing = [word for word in words if not re.search(word, self.text)]
        return f"not said: {missing}" if missing else ""


def ectype(*words: str | Path, cwd: Path | None = None, limit_mb: int | None = None) -> Said:
    """Run a command in a process of its own, with a limit on its memory if one is given."""
    command = [sys.executable, "-m", "ectype.cli", *map(str, words)]
    if limit_mb is not None:
        command = ["prlimit", f"--as={limit_mb << 20}", *command]
    done = subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, "COLUMNS": "300"},
    )
    return Said(done.returncode, done.stdout.decode(errors="replace"))


def check(function: Callable[[Path], str]) -> Callable[[Path], str]:
    """Register the check of a case by its name."""
    CHECKS[function.__name__] = function
    return function


def data(place: Path, *words: str) -> Said:
    """Run `ectype data` on a case, from a folder next to it."""
    return ectype("data", place, *words, cwd=place.parent)


def _as_if_all_0_255(place: Path) -> str:
    """Compare the shares of pixels that are reported with those of the same masks saved as 0 and 255."""
    drawn = [np.asarray(Image.open(file).convert("L" if i % 2 else "I")) for i, file in enumerate(_masks(place))]
    foreground = float(np.mean([mask > 0 for mask in drawn]))
    said = data(place, "pairs=masks", "split.val=0", "split.test=0", "size=48")
    if missing := said.why_without("2 classes", "training pixels:"):
        return missing
    shares = [float(share) / 100 for share in re.findall(r"([\d.]+)%", said.text.split("training pixels:")[1])]
    return "" if abs(shares[1] - foreground) < 2e-3 else f"foreground {shares[1]:.3f}, drawn {foreground:.3f}"


def _masks(place: Path) -> list[Path]:
    return sorted((place / "masks").glob("*.png"))


@check
def mask_one_bit_beside_eight(place: Path) -> str:
    return _as_if_all_0_255(place)


@check
def mask_0_1_beside_0_255(place: Path) -> str:
    return _as_if_all_0_255(place)


@check
def mask_beside_turned_image(place: Path) -> str:
    said = data(place, "pairs=masks")
    return said.why_without("orientation") if said.code == 0 else said.why_not_one_line("orientation")


@check
def mask_stray_value(place: Path) -> str:
    said = ectype("train", "unet-segment", place, "--images", "600", "--out", place.parent / "stray", cwd=place.parent)
    return said.why_without("2 classes", r"\b7\b")


@check
def tiff_16_bit_planar(place: Path) -> str:
    said = data(place, "size=48")
    if "rejected" in said.text and re.search("planar|tifffile", said.text):
        return ""
    if said.code:
        return said.why_not_one_line("planar|tifffile")
    import tifffile

    import ectype as package

    file = min(place.glob("*.tif"))
    wanted = np.moveaxis(tifffile.imread(file), 0, 2) / 65535
    settings = {"data.size": 48, "data.channels": 3, "train.images": 64}  # the preset itself asks for gray images
    run = package.train("ae-linear", str(place), settings, out=place.parent / "planar", progress=False)
    found = np.concatenate([np.asarray(run.images(split)) for split in ("train", "val", "test")])
    nearest = np.abs(found - wanted.transpose(2, 0, 1)).max((1, 2, 3)).min()
    return "" if nearest < 1 / 128 else f"no image equals '{file.name}' (nearest is off by {nearest:.3f})"


@check
def pixels_zero_or_one(place: Path) -> str:
    return data(place).why_without(r"brighter than 1 of 255", r"value_range")


@check
def wholly_transparent(place: Path) -> str:
    return data(place).why_without("transparent", "background")


@check
def labels_one_hot(place: Path) -> str:
    said = ectype(
        "train", "cgan", place / "images", f"labels={place / 'labels.csv'}", *SMALL, "--out", place.parent / "one-hot"
    )
    return said.why_not_one_line("round", "large", "red", "label_column")


@check
def class_only_in_val(place: Path) -> str:
    if missing := data(place).why_without("c", "no training images"):
        return missing
    run = place.parent / "only-in-val"
    said = ectype("train", "cgan-mlp", place, *SMALL, "--out", run, cwd=place.parent)
    if said.code:
        return said.why_without()
    sampled = ectype("sample", run, "--label", "c", "-n", "4", "--out", place.parent / "c.png", cwd=place.parent)
    return sampled.why_not_one_line("'?c'?", "training")


@check
def hidden_and_linked(place: Path) -> str:
    if missing := data(place).why_without("48 images"):
        return missing
    run, out = place.parent / "hidden", place.parent / "hidden-out"
    said = ectype("train", "ae-linear", place, *SMALL, "--out", run, cwd=place.parent)
    if said.code:
        return said.why_without()
    said = ectype("reconstruct", run, place, "--out", out, cwd=place.parent)
    written = {file.stem for file in out.rglob("*.png")}
    named = {file.stem for folder in ("seen", "linked") for file in (place / folder).iterdir()}
    wrong = (named - written) | {name for name in written if "checkpoint" in name}
    return said.why_without() or (f"other files than training saw: {sorted(wrong)[:4]}" if wrong else "")


@check
def pipe_among_images(place: Path) -> str:
    return data(place).why_without("24 images", "pipe")


@check
def zip_made_elsewhere(place: Path) -> str:
    return data(place / "photos.zip").why_without("24 images", "2 classes")


@check
def project_folder_as_out(place: Path) -> str:
    files = [file for file in place.rglob("*") if file.is_file()]
    said = ectype("train", "ae", "digits", "size=16", "--images", "300", "--out", ".", cwd=place)
    changed = [file.name for file in files if not file.is_file() or file.read_text(encoding="utf-8") != "MINE"]
    return f"changed: {changed}" if changed else said.why_not_one_line("--out")


@check
def yaml_of_aliases(place: Path) -> str:
    # The interpreter and its libraries map a gigabyte of addresses before anything is read.
    said = ectype("train", place / "aliases.yaml", "digits", "--dry-run", cwd=place.parent, limit_mb=4096)
    return said.why_not_one_line("alias|anchor")


@check
def idx_that_lies(place: Path) -> str:
    return ectype("data", place / "lying-idx3-ubyte", cwd=place.parent, limit_mb=4096).why_not_one_line("header")


@check
def names_that_inject(place: Path) -> str:
    run = place.parent / "inject"
    said = ectype("train", "cgan-mlp", place, *SMALL, "--out", run, cwd=place.parent)
    if said.code:
        return said.why_without()
    exported = ectype("export", run, "--to", "safetensors", "--out", place.parent / "inject-out", cwd=place.parent)
    if exported.code:
        return exported.why_without()
    found = [name for name, text in (("train", said.text), ("export", exported.text)) if "\x1b" in text]
    for page in (run / "report.html", place.parent / "inject-out" / "README.md"):
        text = page.read_text(encoding="utf-8")
        if "<img src=x" in text or "\x1b" in text:
            found.append(page.name)
    return f"not escaped in {found}" if found else ""


def run(folder: Path | None = None) -> tuple[int, int, list[str]]:
    """Try every case; return how many were tried, how many ended right, and what was wrong with the others."""
    if not MAKE.is_file():
        return 0, 0, [f"no cases at '{MAKE}': set ECTYPE_SHARED"]
    failures: list[str] = []
    # One cache, outside the cases, for the commands and for what runs in this process.
    with (
        TemporaryDirectory(prefix="ectype-cases-") as scratch,
        TemporaryDirectory(prefix="ectype-cases-cache-") as cache,
        patch.dict(os.environ, ECTYPE_CACHE=cache),
    ):
        place = (folder or Path(scratch)).resolve()
        subprocess.run([sys.executable, MAKE, place], check=True, capture_output=True)
        made = sorted(path.name for path in place.iterdir() if path.name in CHECKS)
        for name in made:
            try:
                why = CHECKS[name](place / name)
            except subprocess.TimeoutExpired:
                why = "hung"
            if why:
                failures.append(f"{name}: {why}")
        listed = {line.split("|")[1].strip() for line in (place / "cases.md").read_text().splitlines()[2:]}
        failures += [f"{name}: no check" for name in sorted(listed - CHECKS.keys())]
    return len(listed), len(listed) - len(failures), failures


if __name__ == "__main__":
    tried, survived, failures = run(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(*failures, f"{survived} of {tried} cases end right", sep="\n")
