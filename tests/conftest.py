"""What all tests share: shapes checked at run time, one thread, a cache of their own, the shared images if present."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import config as shape_checks
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  # the hook looks it up by name

# Before anything imports the package: every annotated shape of a call is checked, except in tests marked `trains`.
install_import_hook("ectype", "tests.shapes.check")

import torch  # noqa: E402

ROOT = Path(__file__).parent.parent
SECONDS: dict[str, float] = json.loads(Path(__file__).with_name("seconds.json").read_text())
"""Scope -> how long its tests took once, for those of more than five seconds: they are started first."""
SHARED = Path(os.environ.get("ECTYPE_SHARED", ROOT.parent / "shared")) / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Check no shapes while a test marked `trains` runs, its fixtures included: checks cost more than small nets do.

    The shapes of every preset's turns are checked where the first losses of each are compared with recorded ones.
    """
    shape_checks.update("jaxtyping_disable", item.get_closest_marker("trains") is not None)
    try:
        return (yield)
    finally:
        shape_checks.update("jaxtyping_disable", False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Run the tests of one file in one process, and in the conformance suite those of one preset; the longest first.

    What such tests share, such as the training of a preset, is made once then.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return test.rpartition("[")[2] if "/conformance/" in file else file

        def _assign_work_unit(self, node: Any) -> None:
            longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope.rstrip("]"), 0.0))
            self.workqueue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return Together(config, log)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors are slower on two threads, and tests may run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ECTYPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def shared() -> Path:
    """The folder of shared images; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared images at {SHARED} (set ECTYPE_SHARED)")
    return SHARED
