"""Run by torchrun: memory runs out in the second process alone, and both end with the same."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ectype.core.distributed import process_group
from tests.training.stand_ins import game, play, scarce

torch.set_num_threads(1)
with process_group(torch.device("cpu")) as world:
    objective = scarce(game(), most=4, since=3) if world.rank == 1 else game()
    trainer = play(objective, 10, world=world)
    assert trainer.micro_batch == 4
    torch.save(trainer.tensors(), Path(sys.argv[1]) / f"{world.rank}.pt")
