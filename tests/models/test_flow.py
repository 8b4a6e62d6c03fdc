"""Flows on a case whose velocity is known in closed form, and the interface of velocity networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.base import ClassConditional, LatentSampler, ODESampler, Samples
from ectype.models.flow import Flow, FlowConfig
from ectype.nets.velocity import MLPVelocityConfig, UNetVelocityConfig, VelocityConfig

INFO = DataInfo(1, (1, 2), classes=("a", "b"), frequencies=(0.25, 0.75))
MEAN, DEVIATION = 0.3, 0.5


class Gaussian(nn.Module):
    """The velocity E[image − noise | x_t] for normalized images from N(m, s²), where m depends on the label."""

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        t = time.view(-1, 1, 1, 1)
        mean = torch.zeros_like(t) if label is None else MEAN * (1 - 2 * label.view(-1, 1, 1, 1).float())
        variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
        slope = (t * DEVIATION**2 - (1 - t)) / variance
        return mean + slope * (x - t * mean)


def build_flow(**options: object) -> Flow:
    model = Flow(FlowConfig.model_validate({"net": MLPVelocityConfig(width=8), **options}), INFO)
    model.net = Gaussian()
    model.spread.fill_(0.1)  # so that no image reaches 0 or 1, where it would be clamped
    model.register_parameter("held", nn.Parameter(torch.zeros(())))
    return model


def normalized_samples(model: Flow, n: int, label: Tensor | None) -> Tensor:
    found = model.render(model.sample_latents(n, generator=torch.Generator().manual_seed(0)), label=label)
    return (found.detach() - model.centre) / model.spread


@pytest.mark.parametrize("solver, steps, tolerance", [("euler", 400, 0.01), ("heun", 40, 0.002)])
def test_the_true_velocity_leads_to_the_true_distribution(solver: str, steps: int, tolerance: float) -> None:
    model = build_flow(solver=solver, steps=steps)
    noise = model.sample_latents(4000, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(4000, dtype=torch.int64)
    # Straight paths between Gaussians map each noise value to m + s · noise.
    assert torch.allclose(normalized_samples(model, 4000, label), MEAN + DEVIATION * noise, atol=tolerance * 5)
    assert torch.allclose(normalized_samples(model, 4000, None), DEVIATION * noise, atol=tolerance * 5)


def test_heun_is_more_exact_than_euler_at_equal_cost() -> None:
    expected = DEVIATION * build_flow().sample_latents(500, generator=torch.Generator().manual_seed(0))
    errors = [
        float((normalized_samples(build_flow(solver=solver, steps=steps), 500, None) - expected).abs().mean())
        for solver, steps in (("euler", 20), ("heun", 10))
    ]
    assert errors[1] < 0.2 * errors[0]


def test_guidance_goes_beyond_the_label() -> None:
    label = torch.ones(3000, dtype=torch.int64)
    means = [float(normalized_samples(build_flow(guidance=g, steps=40), 3000, label).mean()) for g in (0.0, 1.0, 2.0)]
    assert means == pytest.approx([0.0, -MEAN, -2 * MEAN], abs=0.05)


def test_what_it_can_do() -> None:
    model = build_flow()
    for capability in (Samples, LatentSampler, ClassConditional, ODESampler):
        assert isinstance(model, capability)
    drawn = model.sample_labels(4000, generator=torch.Generator().manual_seed(0))
    assert float(drawn.float().mean()) == pytest.approx(0.75, abs=0.03)
    one, two = (model.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    plain = Flow(FlowConfig(net=MLPVelocityConfig(width=8), condition="none"), INFO)
    assert not plain.conditional
    with pytest.raises(ModelError, match="knows no classes"):
        plain.render(plain.sample_latents(2), label=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ModelError, match="at least two classes, there are 0"):
        Flow(FlowConfig(condition="label"), DataInfo(1, (8, 8)))


def test_images_become_standard() -> None:
    model = Flow(FlowConfig(net=MLPVelocityConfig(width=8)), INFO)
    images = 0.2 + 0.3 * torch.rand(1000, 1, 1, 2)
    model.initialize_from_data(images.mean(0), lambda: images)
    found = model.normalize(images)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    model.initialize_from_data(images[0] * 0 + 0.5, lambda: torch.full_like(images, 0.5))
    assert math.isfinite(float(model.normalize(images).abs().max()))


@pytest.mark.parametrize(
    "config, info",
    [
        (MLPVelocityConfig(width=16, depth=2), DataInfo(12, (1, 1), ("a", "b"))),
        (UNetVelocityConfig(width=8, max_width=16, bottom=4), DataInfo(3, (13, 10), ("a", "b"))),
        (UNetVelocityConfig(width=16, max_width=16, depth=2), DataInfo(4, (2, 2), ("a", "b"))),
    ],
)
def test_networks_begin_at_no_velocity_and_hear_time_and_label(config: VelocityConfig, info: DataInfo) -> None:
    torch.manual_seed(0)
    net = config.build(info, 2)
    x, time = torch.randn(4, *info.shape), torch.rand(4)
    label = torch.tensor([0, 1, 0, 1])
    assert torch.equal(net(x, time, label), torch.zeros_like(x))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    found = net(x, time, label)
    assert found.shape == x.shape
    for other in (net(x, 1 - time, label), net(x, time, 1 - label), net(x, time, None)):
        assert not torch.allclose(found, other, atol=1e-4)
    # No label is an additional class.
    assert torch.equal(net(x, time, None), net(x, time, torch.full((4,), 2)))
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_vector_gets_a_network_for_vectors() -> None:
    assert isinstance(FlowConfig().on_codes((16,)).net, MLPVelocityConfig)
    assert isinstance(FlowConfig().on_codes((4, 8, 8)).net, UNetVelocityConfig)
    config = FlowConfig(net=MLPVelocityConfig(width=32))
    assert config.on_codes((16,)) == config
