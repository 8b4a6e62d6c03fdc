"""Models are built on the device `meta` without memory, and without importing PyTorch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from ectype.core.meta_device import meta_device

CODE = """
import sys
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.meta_device import meta_device
from ectype.models.densities import GaussianMixture

for name in ("vae", "vqvae", "gan", "flow", "wgan-gp"):
    recipe = load_recipe(name)
    with meta_device():
        model = recipe.model.build(DataInfo(3, (32, 32), (), (0.5, 0.5, 0.5), False))
    assert all(parameter.is_meta for parameter in model.parameters()), name
with meta_device():
    GaussianMixture((2,), 3, 1)
print("torch._dynamo" in sys.modules)
"""


def test_what_fills_a_tensor_is_skipped_and_shapes_are_kept() -> None:
    with meta_device():
        layer = nn.Linear(4, 10**9)
        nn.init.kaiming_normal_(layer.weight)
        drawn = torch.empty(3, 5).uniform_().mul_(2)
    assert layer.weight.is_meta
    assert drawn.shape == (3, 5)
    # Outside, and for real tensors inside, everything works as always.
    with meta_device():
        assert torch.zeros(3, device="cpu").add_(1).sum() == 3
    assert torch.empty(3).uniform_(2, 3).min() >= 2


def test_the_compiler_is_not_imported() -> None:
    """It takes seconds, which every command that loads a model would wait for."""
    process = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "False", process.stderr
