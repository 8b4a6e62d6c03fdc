"""What a flow is asked to learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ectype.data.batch import Batch
from ectype.errors import ModelError
from ectype.models.flow import Flow, FlowConfig
from ectype.nets.velocity import MLPVelocityConfig
from ectype.objectives.flow_matching import FlowMatching, FlowMatchingConfig
from ectype.sections import DataInfo
from ectype.training.position import Position

INFO = DataInfo(1, (1, 2), classes=("a", "b"))


class Heard(nn.Module):
    """Says nothing and notes what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        self.told.append((x, time, label))
        return torch.zeros_like(x)


def game(**given: object) -> tuple[FlowMatching, Heard]:
    flow = Flow(FlowConfig(net=MLPVelocityConfig(width=8)), INFO)
    flow.net = Heard()
    return FlowMatching(flow, FlowMatchingConfig.model_validate(given)), flow.net


def test_points_lie_on_straight_ways_and_the_loss_is_of_their_direction() -> None:
    objective, heard = game(unlabelled=0.0)
    image = torch.rand(6, 1, 1, 2)
    moment = Position(3, 0, 0, "model", batch=6)
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    found = objective.score(Batch(image, label), moment)
    point, time, told = heard.told[0]
    noise, at_end = moment.normal("noise", 6, 1, 1, 2), (image - 0.5) / 0.5
    t = time.view(-1, 1, 1, 1)
    assert torch.allclose(point, (1 - t) * noise + t * at_end)
    assert torch.equal(told, label)
    # Of a velocity of nothing, the mean square of what is asked for.
    assert found.total().item() == pytest.approx(float((at_end - noise).square().mean()), rel=1e-5)


def test_times_and_unsaid_labels_are_as_asked() -> None:
    n = 20_000
    batch = Batch(torch.rand(n, 1, 1, 2), torch.zeros(n, dtype=torch.int64))
    moment = Position(0, 0, 0, "model", batch=n)
    for kind, inner in (("uniform", 0.5), ("logit_normal", 0.728)):  # share of times within ¼ … ¾
        objective, heard = game(time=kind, unlabelled=0.25)
        objective.score(batch, moment)
        _, time, told = heard.told[0]
        assert float(((time > 0.25) & (time < 0.75)).float().mean()) == pytest.approx(inner, abs=0.01)
        assert told is not None
        assert float((told == 2).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_it_trains_flows_only() -> None:
    with pytest.raises(ModelError, match="choose model=flow"):
        FlowMatching(nn.Linear(1, 1), FlowMatchingConfig())
