"""The layout of the package: folders only, no import cycles, and the names that it exports."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import networkx as nx
import pytest

import ectype

ROOT = Path(ectype.__path__[0])
MODULES = {
    ".".join(["ectype", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def imports_of(file: Path) -> set[str]:
    """Every module of ours that a file imports, also inside of functions and for annotations only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ectype"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found


def test_there_is_no_import_cycle_between_files() -> None:
    graph = nx.DiGraph((name, imported) for name, file in MODULES.items() for imported in imports_of(file) - {name})
    graph.remove_node("ectype")  # the exported names are imported when they are first used
    assert [sorted(cycle) for cycle in nx.strongly_connected_components(graph) if len(cycle) > 1] == []


def test_the_top_level_holds_the_public_names_only() -> None:
    assert [file.name for file in ROOT.glob("*.py")] == ["__init__.py"]


def test_no_file_grows_past_400_lines() -> None:
    assert [name for name, file in MODULES.items() if len(file.read_text(encoding="utf-8").splitlines()) > 400] == []


def test_relative_imports_are_not_used() -> None:
    for name, file in MODULES.items():
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), name


@pytest.mark.parametrize("name", ectype.__all__)
def test_exported_names_have_a_docstring(name: str) -> None:
    exported = getattr(ectype, name)
    assert (exported.__doc__ or "").strip()
    assert exported is getattr(importlib.import_module(ectype._MODULES[name]), name)


def test_exported_names_are_listed_for_completion() -> None:
    assert set(ectype.__all__) == set(ectype._MODULES) <= set(dir(ectype))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = ectype.trian  # pyright: ignore[reportAttributeAccessIssue]
