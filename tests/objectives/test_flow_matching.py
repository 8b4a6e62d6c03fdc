"""The flow matching objective."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.models.flow import Flow, FlowConfig
from ectype.nets.velocity import MLPVelocityConfig
from ectype.objectives.flow_matching import FlowMatching, FlowMatchingConfig

INFO = DataInfo(1, (1, 2), classes=("a", "b"))


class RecordingNet(nn.Module):
    """Return a zero velocity and record the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        self.inputs.append((x, time, label))
        return torch.zeros_like(x)


def build(**options: object) -> tuple[FlowMatching, RecordingNet]:
    flow = Flow(FlowConfig(net=MLPVelocityConfig(width=8)), INFO)
    flow.net = RecordingNet()
    return FlowMatching(flow, FlowMatchingConfig.model_validate(options)), flow.net


def test_points_lie_on_straight_ways_and_the_loss_is_of_their_direction() -> None:
    objective, net = build(unlabelled=0.0)
    image = torch.rand(6, 1, 1, 2)
    context = SeededStepContext(3, 0, 0, "model", batch=6)
    label = torch.tensor([0, 1, 0, 1, 0, 1])
    found = objective.score(Batch(image, label), context)
    point, time, passed_label = net.inputs[0]
    noise, normalized = context.normal("noise", 6, 1, 1, 2), (image - 0.5) / 0.5
    t = time.view(-1, 1, 1, 1)
    assert torch.allclose(point, (1 - t) * noise + t * normalized)
    assert torch.equal(passed_label, label)
    # The loss of a zero velocity is the mean square of the target.
    assert found.total().item() == pytest.approx(float((normalized - noise).square().mean()), rel=1e-5)


def test_times_and_unsaid_labels_are_as_asked() -> None:
    n = 20_000
    batch = Batch(torch.rand(n, 1, 1, 2), torch.zeros(n, dtype=torch.int64))
    context = SeededStepContext(0, 0, 0, "model", batch=n)
    for kind, fraction in (("uniform", 0.5), ("logit_normal", 0.728)):  # fraction of times within ¼ … ¾
        objective, net = build(time=kind, unlabelled=0.25)
        objective.score(batch, context)
        _, time, passed_label = net.inputs[0]
        assert float(((time > 0.25) & (time < 0.75)).float().mean()) == pytest.approx(fraction, abs=0.01)
        assert passed_label is not None
        assert float((passed_label == 2).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_it_trains_flows_only() -> None:
    with pytest.raises(ModelError, match="choose model=flow"):
        FlowMatching(nn.Linear(1, 1), FlowMatchingConfig())
