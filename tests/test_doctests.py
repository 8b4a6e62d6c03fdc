"""The examples in docstrings run, each module's in an empty directory."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import ectype

pytestmark = pytest.mark.trains

ROOT = Path(ectype.__path__[0])
FILES = [file for file in sorted(ROOT.rglob("*.py")) if file.stem != "__main__" and ">>> " in file.read_text()]
MODULES = [
    ".".join(["ectype", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__") for file in FILES
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What an example registers is not for other tests.
    for registry in ("evaluation.registered._metrics", "nets.registered._modules", "losses.weighted._registered"):
        monkeypatch.setattr(f"ectype.{registry}", {})
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
