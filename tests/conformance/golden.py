"""Writes the losses that later versions are compared with: only when a change to them is wanted."""

from __future__ import annotations

import json

import torch

from ectype.config.recipe import preset_names
from tests.conformance.test_presets import GOLDEN, first_losses

if __name__ == "__main__":
    torch.set_num_threads(1)
    held = {name: [float(f"{loss:.6g}") for loss in first_losses(name)] for name in preset_names()}
    GOLDEN.write_text(json.dumps(held, indent=1) + "\n")
