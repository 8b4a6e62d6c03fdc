"""What is too large is refused in one line, before memory is allocated."""

from __future__ import annotations

import pytest
import torch

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core import safe_loading
from ectype.core.errors import ModelError
from ectype.training import build
from ectype.training.build import check_model_fits

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "preset, size, changes, match",
    [
        ("vae-mlp", 64, ["latent_dim=1_000_000", "hidden=[16384]"], "more than 2,147,483,648 elements"),
        ("ae-linear", 4096, ["latent_dim=1000"], "more than 2,147,483,648 elements"),
        ("vae", 64, ["depth=100", "width=16384", "max_width=16384"], "more than 2,147,483,648 elements"),
        ("ae-mlp-3d", 28, [f"hidden={[4] * 1500}"], "more than 10,000 parts"),
    ],
)
def test_a_model_that_no_run_could_load_is_refused(preset: str, size: int, changes: list[str], match: str) -> None:
    with pytest.raises(ModelError, match=f"this recipe describes a model of {match}: refused"):
        check_model_fits(load_recipe(preset, changes), DataInfo(3, (size, size)), CPU)


def test_the_memory_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("vae", {"latent_dim": 64})
    info = DataInfo(3, (64, 64))
    check_model_fits(recipe, info, CPU)
    monkeypatch.setattr(build, "free_memory", lambda device: 10_000_000)
    with pytest.raises(
        ModelError, match=r"parameters with gradients .* needs 0\.0\d GB of memory, and 0\.01 GB are free"
    ):
        check_model_fits(recipe, info, CPU)
    monkeypatch.setattr(build, "free_memory", lambda device: 2_000_000_000)
    with pytest.raises(ModelError, match=r"one image of 8192×8192 pixels in the model needs \d+\.\d+ GB of memory"):
        check_model_fits(load_recipe("unet-denoise"), DataInfo(3, (8192, 8192)), CPU)


def test_a_slow_build_is_not_called_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_loading, "MAX_BUILD_SECONDS", 0)
    with pytest.raises(ModelError, match="that takes more than 0 seconds to build"):
        check_model_fits(load_recipe("vae"), DataInfo(3, (64, 64)), CPU)
