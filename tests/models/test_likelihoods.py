from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.likelihoods import LikelihoodConfig

INFO = DataInfo(2, (3, 5))
BINARY = INFO._replace(binary=True)
ALL = [
    {"kind": "mse"},
    {"kind": "mse", "output": "linear"},
    {"kind": "l1"},
    {"kind": "bce"},
    {"kind": "bernoulli"},
    {"kind": "continuous_bernoulli"},
    {"kind": "discretised_logistic"},
    {"kind": "gaussian", "sigma": "fixed", "value": 0.3},
    {"kind": "gaussian", "sigma": "learned"},
    {"kind": "gaussian", "sigma": "optimal"},
]


def make(plain: dict) -> torch.nn.Module:
    return LikelihoodConfig.model_validate(plain).build(BINARY)


def raw_and_image(likelihood) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 2 * likelihood.params_per_element, 3, 5, generator=g)
    return raw, torch.rand(4, 2, 3, 5, generator=g).round()


@pytest.mark.parametrize("plain", ALL, ids=str)
def test_loss_is_per_image_and_has_a_gradient(plain: dict) -> None:
    likelihood = make(plain)
    raw, image = raw_and_image(likelihood)
    raw.requires_grad_()
    loss = likelihood.loss(raw, image)
    assert loss.shape == (4,)
    loss.sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad.flatten(1).norm(dim=1) > 0).all()
    assert likelihood.mean(raw).shape == image.shape


@pytest.mark.parametrize("plain", [p for p in ALL if p["kind"] != "bce"], ids=str)
def test_loss_leaves_out_of_log_prob_just_the_stated_constant(plain: dict) -> None:
    likelihood = make(plain).eval()
    raw, image = raw_and_image(likelihood)
    omitted = likelihood.omitted_constant * image[0].numel()
    torch.testing.assert_close(-likelihood.log_prob(raw, image), likelihood.loss(raw, image) + omitted)


def test_cross_entropy_is_no_likelihood_and_says_so() -> None:
    likelihood = make({"kind": "bce"})
    assert likelihood.density_name is None
    assert likelihood.loss_name == "BCE"
    with pytest.raises(ModelError, match="BCE is not a likelihood"):
        likelihood.log_prob(*raw_and_image(likelihood))


def test_bernoulli_refuses_grey_pixels() -> None:
    with pytest.raises(ModelError, match=r"data\.binarise=dynamic"):
        LikelihoodConfig.model_validate({"kind": "bernoulli"}).build(INFO)


def test_gaussian_against_scipy() -> None:
    likelihood = make({"kind": "gaussian", "sigma": "fixed", "value": 0.3, "output": "linear"})
    raw, image = raw_and_image(likelihood)
    expected = stats.norm.logpdf(image.numpy(), raw.numpy(), 0.3).sum(axis=(1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(raw, image), torch.tensor(expected).float())
    assert make({"kind": "gaussian", "sigma": "learned"}).log_sigma.requires_grad


def test_laplace_against_scipy() -> None:
    likelihood = make({"kind": "l1", "output": "linear"})
    raw, image = raw_and_image(likelihood)
    expected = stats.laplace.logpdf(image.numpy(), raw.numpy(), 1).sum(axis=(1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(raw, image), torch.tensor(expected).float())


@pytest.mark.parametrize("logit", [-30.0, -4.0, -0.02, -0.005, 0.0, 1e-4, 0.011, 2.0, 25.0])
def test_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit: float) -> None:
    likelihood = make({"kind": "continuous_bernoulli"})
    raw = torch.full((1, 2, 3, 5), logit, dtype=torch.float64)

    def density(x: float) -> float:
        return math.exp(float(likelihood.log_prob(raw[:, :1, :1, :1], torch.full((1, 1, 1, 1), x).double())))

    total, mean = (integrate.quad(lambda x, k=k: density(x) * x**k, 0, 1, epsabs=1e-9)[0] for k in (0, 1))
    assert total == pytest.approx(1, abs=1e-6)
    assert float(likelihood.mean(raw)[0, 0, 0, 0]) == pytest.approx(mean, abs=1e-6)


def test_continuous_bernoulli_starts_where_it_is_asked_and_has_slopes_everywhere() -> None:
    likelihood = make({"kind": "continuous_bernoulli"})
    target = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.95]).view(1, 2, 3)
    torch.testing.assert_close(likelihood.mean(likelihood.inverse_mean(target)[None])[0], target, atol=1e-4, rtol=0)
    raw = torch.tensor([-300.0, -120.0, -89.0, -1.0, 1e-3, 89.0, 300.0]).view(1, 1, 1, 7).requires_grad_()
    mean = likelihood.mean(raw)
    mean.sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad > 0).all()
    torch.testing.assert_close(mean + likelihood.mean(-raw), torch.ones_like(raw))


def test_discretised_logistic_pulls_from_far_on_either_side() -> None:
    likelihood = make({"kind": "discretised_logistic"})
    gradients = []
    for value in (64, 192):  # equally far above and below a mean of ½, at a small scale
        raw = torch.tensor([math.log(128 / 127), -4.0]).view(1, 2, 1, 1).clone().requires_grad_()
        likelihood.loss(raw, torch.full((1, 1, 1, 1), value / 255)).sum().backward()
        gradients.append(raw.grad.flatten())
    assert gradients[0][0] > 10
    torch.testing.assert_close(gradients[0][0], -gradients[1][0], rtol=0.05, atol=0)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=0.05, atol=0)
    assert gradients[0][1] < 0, "the gradient must widen the scale"


@pytest.mark.parametrize("center, scale", [(0.0, 0.0), (3.0, -3.0), (-9.0, -6.0), (0.4, 2.0)])
def test_discretised_logistic_sums_to_one(center: float, scale: float) -> None:
    likelihood = make({"kind": "discretised_logistic"})
    image = (torch.arange(256).float() / 255).view(256, 1, 1, 1)
    raw = torch.tensor([center, scale]).view(1, 2, 1, 1).expand(256, 2, 1, 1)
    assert float(likelihood.log_prob(raw, image).exp().sum()) == pytest.approx(1, abs=1e-4)


def test_optimal_sigma_is_the_best_of_the_batch_and_is_followed() -> None:
    optimal = make({"kind": "gaussian", "sigma": "optimal"}).train()
    raw, image = raw_and_image(optimal)
    rmse = float(((optimal.mean(raw) - image) ** 2).mean().sqrt())
    best = optimal.loss(raw, image).mean()
    for factor in (0.9, 1.0, 1.1):
        fixed = make({"kind": "gaussian", "sigma": "fixed", "value": rmse * factor})
        assert float(fixed.loss(raw, image).mean()) >= float(best) - 1e-3
    for _ in range(2000):
        optimal.update_buffers(optimal.batch_statistics(raw, image))
    assert float(optimal.log_sigma.exp()) == pytest.approx(rmse, rel=1e-3)
    torch.testing.assert_close(optimal.eval().loss(raw, image).mean(), best, rtol=1e-4, atol=1e-3)
