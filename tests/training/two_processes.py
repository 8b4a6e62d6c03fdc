"""Run by torchrun: plays the game in two processes and saves what each ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ectype.training.distributed import launched
from tests.training.stand_ins import game, play

torch.set_num_threads(1)
with launched(torch.device("cpu")) as world:
    assert world.size == 2
    assert world.agree(world.rank) == 0
    assert world.any(world.rank == 1)
    assert not world.any(False)
    torch.save(play(game(), 10, world=world).tensors(), Path(sys.argv[1]) / f"{world.rank}.pt")
    torch.save(play(game(norm=True), 10, world=world).tensors(), Path(sys.argv[1]) / f"norm-{world.rank}.pt")
