"""Recipes drawn from the schema, valid and broken: each builds, or is refused in one line, within limits.

python -m benchmarks.drawn_recipes 500
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ectype.analysis.cost import assumed_info
from ectype.config.recipe import load_recipe, preset_names
from ectype.core.errors import EctypeError
from ectype.core.memory import out_of_memory
from ectype.training.build import build_trainer, check_model_fits

MAX_BYTES = 4 * 2**30
"""Address space that a child may add to that of its parent."""
MAX_CPU_SECONDS = 60
"""Of the processor, because the machine may be busy."""
MAX_SECONDS = 600

NUMBERS = [0, 1, -1, 2, 3, 4, 7, 16, 63, 64, 100, 1000, 16_384, 1_000_000, 2**31, 2**32 - 1, 2**32, 2**63, 2**64]
NUMBERS += [10**18, 10**30, 0.0, 0.5, 0.999, 1.0, -0.5, 1e-12, 1e11, 1e300]
WORDS = [
    "",
    "auto",
    "none",
    "null",
    "true",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "１２８",
    "²",
    "2M",
    "1e-3",
    "*a",
    "&a",
    "[",
    "{",
]
WORDS += [
    "conv",
    "mlp",
    "x" * 300,
    "../../x",
    "\x1b[31m",
    "/dev/zero",
    "[1, 2]",
    "[4, 8, 8]",
    "{kind: conv}",
    "{l1: 1}",
]
WORDS += ["{l1: -1}", "[" * 40, "9" * 5000, "2001-99-99", "!!binary x", "0x10", "1:30", "café", "~"]


def _paths(node: Mapping[str, Any], parent: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        found.append(f"{parent}{key}")
        if isinstance(value, Mapping):
            found += _paths(value, f"{parent}{key}.")
    return found


KEYS = {name: _paths(load_recipe(name).plain()) for name in preset_names()}
values = st.one_of(
    st.sampled_from(NUMBERS).map(str),
    st.sampled_from(WORDS),
    st.integers(1, 512).map(str),
    st.floats().map(str),
    st.text(max_size=8),
)


drawn_recipes = st.sampled_from(sorted(KEYS)).flatmap(
    lambda preset: st.tuples(
        st.just(preset), st.lists(st.tuples(st.sampled_from(KEYS[preset]), values).map("=".join), max_size=4)
    )
)
"""A preset, and up to four of its keys with values that may suit them or not."""


def outcome(preset: str, overrides: list[str], *, build: bool) -> str:
    """Return how a recipe ends: "built", or the one line that it is refused with.

    Args:
        preset: A preset.
        overrides: `key=value` texts.
        build: Whether the networks are built with their weights, after the check that they fit.

    Raises:
        Exception: Anything that is no error for a user, or is not one line.
    """
    try:
        recipe = load_recipe(preset, overrides)
        info = assumed_info(recipe)
        check_model_fits(recipe, info, torch.device("cpu"))
        if build:
            build_trainer(recipe, info, _NoImages(), budget=recipe.train.images, device=torch.device("cpu"))
    except EctypeError as error:
        line = str(error)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        line = "out of memory"
    else:
        return "built"
    if "\n" in line or len(line) > 1500:
        raise AssertionError(f"not one line: {line!r}")
    return line


class _NoImages:
    def __len__(self) -> int:
        return 1000

    def __call__(self, index: Any, context: Any) -> Any:
        raise AssertionError("nothing is trained here")


def in_child(preset: str, overrides: list[str]) -> str:
    """Build a recipe in a child process with limits; return "" if it ends well, else what happened."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        message = ""
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            most = pages * resource.getpagesize() + MAX_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
            signal.alarm(MAX_SECONDS)
            torch.set_num_threads(1)  # the threads of the parent do not exist here
            outcome(preset, overrides, build=True)
        except BaseException:
            message = traceback.format_exc()[-2000:]
        os.write(write, message.encode(errors="replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        message = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return message or ("" if status == 0 else f"ended by {status}")


def run(n: int = 500) -> tuple[int, int, list[str]]:
    """Draw n recipes; return how many were tried, how many ended well, and how the others ended."""
    tried, failures = 0, []
    warnings.simplefilter("ignore")

    @settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_recipes)
    def each(drawn: tuple[str, list[str]]) -> None:
        nonlocal tried
        tried += 1
        if message := in_child(*drawn):
            failures.append(f"{drawn[0]} {' '.join(drawn[1])}: {message}")

    each()
    return tried, tried - len(failures), failures


if __name__ == "__main__":
    started = time.perf_counter()
    number, survived, failed = run(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
    for failure in failed:
        print(failure)
    print(f"{number} recipes, {survived} built or refused in one line, {time.perf_counter() - started:.0f} s")
