from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.data.batch import Batch
from ectype.objectives.base import Objective
from ectype.training import micro_batch
from ectype.training.activation_checkpointing import checkpoint_activations
from ectype.training.trainer import Trainer
from tests.conformance.small import small

from .stand_ins import same

INFO = DataInfo(1, (16, 16), ("even", "odd"), (0.5, 0.5))


class Noise:
    """A feed of fixed random images of two classes."""

    def __init__(self, size: int) -> None:
        self.image = torch.rand(64, 1, size, size, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return 64

    def __call__(self, index: torch.Tensor, context: object) -> Batch:
        return Batch(self.image[index], index % 2)


def trainer(name: str, again: bool, *, size: int = 16, **changes) -> Trainer:
    recipe = small(name, **changes)
    torch.manual_seed(0)
    info = INFO._replace(size=(size, size))
    objective = recipe.objective.build(recipe.model.build(info), info, images=3200)
    assert isinstance(objective, Objective)
    if again:
        for player in objective.players.values():
            checkpoint_activations(player)
    return Trainer(objective, Noise(size), recipe, budget=3200, device=torch.device("cpu"), world=World())


def relu(parts: nn.Module) -> int:
    """Counts how often the activations of a network run."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    for part in parts.modules():
        if isinstance(part, nn.ReLU | nn.LeakyReLU | nn.SiLU):
            part.register_forward_hook(count)
    return calls


EVERY = {"objective.adversary.penalty.every": 1}


@pytest.mark.parametrize(
    "name, changes",
    [
        ("ae", {}),
        ("ae-conv", {}),  # BatchNorm
        ("ae-conv-deep", {"run.micro_batch": 10}),
        ("vae", {}),
        ("gan", EVERY),  # R1 + R2, relativistic
        ("wgan-gp", EVERY),
        ("cgan", EVERY),
    ],
)
def test_nothing_that_is_computed_changes(name: str, changes: dict) -> None:
    """Weights, running statistics and the optimizers' state after three steps, to the last bit."""
    one, two = trainer(name, False, **changes), trainer(name, True, **changes)
    assert one.tensors()["objective"].keys() == two.tensors()["objective"].keys()
    ran = [relu(one.objective), relu(two.objective)]
    for _ in range(3):
        one.step()
        two.step()
    same(one, two)
    assert ran[1][0] > ran[0][0], "nothing was computed again"


def test_less_is_held() -> None:
    held = []
    for again in (False, True):
        made = trainer("ae", again, size=64)
        made.step()
        with micro_batch._metered(made.device) as meter:
            made.step()
        held.append(meter.read())
    assert held[1] < 0.7 * held[0]


def test_a_copy_is_a_network_of_its_own() -> None:
    made = trainer("ae-conv", True)
    before = copy.deepcopy(made.tensors())
    made.dry_run_copy().step()
    after = made.tensors()
    assert all(torch.equal(after[name][key], value) for name in before for key, value in before[name].items())
    made.step()
    assert any(not torch.equal(made.tensors()["objective"][k], v) for k, v in before["objective"].items())


class Listed(nn.Module):
    """Blocks in a list, and one that begins by writing over its input."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 8))
        writes = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), nn.Linear(8, 8))
        self.blocks = nn.ModuleList([block, writes, nn.Linear(8, 8)])
        self.tail = nn.Sequential(
            nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.LeakyReLU(0.2, inplace=True), nn.Linear(8, 8)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x.clone())
        return self.tail(x)


@pytest.mark.parametrize("twice", [False, True])
def test_lists_and_layers_that_write_over_their_input(twice: bool) -> None:
    torch.manual_seed(1)
    plain = Listed()
    again = copy.deepcopy(plain)
    for _ in range(2 if twice else 1):
        checkpoint_activations(again)
    x = torch.randn(6, 8)
    for network in (plain, again):
        network(x).square().mean().backward()
    for one, two in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    for one, two in zip(plain.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, two)
    assert plain.state_dict().keys() == again.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), again.eval()(x))
