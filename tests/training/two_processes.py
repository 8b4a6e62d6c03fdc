"""Run by torchrun: plays the game in two processes and saves what each ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ectype.core.distributed import process_group
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.training.loop import fit
from tests.training.stand_ins import game, play

torch.set_num_threads(1)
with process_group(torch.device("cpu")) as world:
    assert world.size == 2
    assert world.broadcast(world.rank) == 0
    assert world.any(world.rank == 1)
    assert not world.any(False)
    torch.save(play(game(), 10, world=world).tensors(), Path(sys.argv[1]) / f"{world.rank}.pt")
    monitor = Monitor(32, None, stop_on_fatal=True)
    # The first process alone knows what real images look like, and both must stop by what it says of them.
    outcome = fit(
        play(game(), 0, world=world),
        monitor,
        (lambda model: {"FD": 1.0}) if world.is_first else lambda model: {},
        judge=(lambda values, monitor: Verdict("collapsed", "as planned")) if world.is_first else None,
        save=lambda: None,
        callbacks=[],
        log_every=1e9,
    )
    assert outcome.state == "collapsed", outcome
    assert outcome.seen == 64, outcome
    torch.save(play(game(norm=True), 10, world=world).tensors(), Path(sys.argv[1]) / f"norm-{world.rank}.pt")
