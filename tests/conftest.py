"""What all tests share: shapes checked at run time, one thread, a cache of their own, the shared images if there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401  # the hook looks it up by name

# Before anything imports the package: every annotated shape of a call is checked from here on.
install_import_hook("ectype", "tests.shapes.check")

import torch  # noqa: E402

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ECTYPE_SHARED", ROOT.parent / "shared")) / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Where tests run side by side, those of one file have one process, and in the conformance suite those of a preset.

    What such tests share is made once then: for a preset, its training.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return test.rpartition("[")[2] if "/conformance/" in file else file

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
