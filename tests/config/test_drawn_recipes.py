"""Whatever a recipe holds, it is built or refused in one line; `benchmarks/drawn_recipes.py` draws many more."""

from __future__ import annotations

import pytest
from benchmarks.drawn_recipes import drawn_recipes, in_child, outcome
from hypothesis import HealthCheck, example, given, settings


@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn_recipes)
@example(("vae", ["seed=4294967296"]))
@example(("vae", ["latent_dim=1e11"]))
@example(("vae", ["size=1000000"]))
@example(("vae", ["train.batch=1e18"]))
@example(("vae", ["depth=1000000"]))
@example(("vae", ["about.name=../../x"]))
@example(("ae-mlp-3d", ["size=16384", "hidden=[16384]"]))
def test_a_drawn_recipe_is_built_or_refused_in_one_line(drawn: tuple[str, list[str]]) -> None:
    assert outcome(*drawn, build=False)


@pytest.mark.slow
def test_memory_and_time_are_limited() -> None:
    for preset, overrides in (("vae-fast", ["latent_dim=1000000"]), ("vae-mlp", ["hidden=[16384, 16384]", "size=512"])):
        assert in_child(preset, overrides) == ""
