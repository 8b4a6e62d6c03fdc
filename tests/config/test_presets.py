"""Presets: short files that resolve to the same recipes as ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ectype.config import registry
from ectype.config.recipe import load_recipe, preset_names, preset_path
from ectype.config.schema import Choice

RESOLVED = json.loads(Path(__file__).with_name("resolved_presets.json").read_text(encoding="utf-8"))
"""Every key of every preset, frozen; `about.summary` and `about.task` may be reworded."""
MAX_LINES = 25


def test_the_frozen_presets_are_all_there() -> None:
    assert set(RESOLVED) <= set(preset_names())


@pytest.mark.parametrize("name", RESOLVED)
def test_a_preset_resolves_to_its_frozen_recipe(name: str) -> None:
    resolved = load_recipe(name).plain()
    assert resolved["about"].pop("summary")
    assert resolved["about"].pop("task")
    assert resolved == RESOLVED[name]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_lists_only_what_differs_from_the_defaults(name: str) -> None:
    assert yaml.safe_load(preset_path(name).read_text(encoding="utf-8")) == load_recipe(name).non_defaults()


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_taken_in_at_a_glance(name: str) -> None:
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("# Source: ")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_what_it_is(name: str) -> None:
    about = load_recipe(name).about
    assert about.name == name
    assert about.summary
    assert about.family in ("AE", "VAE", "GAN", "flow", "U-Net")
    assert about.task
    assert about.density in ("none", "explicit bound", "implicit")


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", preset_names())
def test_yaml_returns_the_same_recipe(name: str, full: bool) -> None:
    recipe = load_recipe(name)
    assert load_recipe(yaml.safe_load(recipe.yaml(full=full))) == recipe


def test_non_defaults_of_a_player_and_of_a_changed_kind() -> None:
    recipe = load_recipe(
        "gan", {"optimizer.players.critic": {"lr": 0.1}, "adversary.critic": "mlp", "monitor.patience": 10}
    )
    changed = recipe.non_defaults()
    assert changed["optimizer"]["players"] == {"critic": {"lr": 0.1}}
    assert changed["objective"]["adversary"] == {"critic": {"kind": "mlp"}}
    assert "patience" not in changed["monitor"]
    assert load_recipe(changed) == recipe


def test_the_registry_says_which_folders_it_scans_for_which_kinds() -> None:
    registry.import_kinds()
    assert registry.__doc__ is not None
    assert all(f"`{package}`" in registry.__doc__ for package in registry.KIND_PACKAGES)
    for family in Choice.__subclasses__():
        for kind in family._kinds.values():
            if kind.__module__.startswith("ectype."):
                assert kind.__module__.rpartition(".")[0] in registry.KIND_PACKAGES
