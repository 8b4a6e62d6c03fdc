from __future__ import annotations

import math

import pytest
import torch

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig, GaussianAutoencoder, VariationalAutoencoder
from ectype.models.base import Encodes, HasLogLikelihood, Reconstructs, Samples, evaluating
from ectype.models.bottlenecks import Posterior
from ectype.models.corruptions import CorruptionConfig
from ectype.nets.mlp import MLPConfig

INFO = DataInfo(1, (6, 6))


def make(**keys) -> Autoencoder:
    torch.manual_seed(0)
    return AutoencoderConfig.model_validate({"net": MLPConfig(latent_dim=3, hidden=(8,)), **keys}).build(INFO).eval()


def test_what_a_model_can_do_follows_from_its_parts() -> None:
    plain, bce, full = (make(), make(bottleneck={"kind": "gaussian"}, likelihood={"kind": "bce"}), None)
    full = make(bottleneck={"kind": "gaussian"})
    for model in (plain, bce, full):
        assert isinstance(model, Reconstructs)
        assert isinstance(model, Encodes)
        assert isinstance(model, Samples)
    assert type(plain) is Autoencoder
    assert type(bce) is GaussianAutoencoder
    assert type(full) is VariationalAutoencoder
    assert not isinstance(plain, HasLogLikelihood)
    assert not isinstance(bce, HasLogLikelihood)
    assert isinstance(full, HasLogLikelihood)


def test_public_images_are_in_range_even_from_a_linear_decoder() -> None:
    model = make(likelihood={"kind": "mse", "output": "linear"})
    code = 100 * torch.randn(5, 3)
    assert model.decode_unclamped(code).abs().max() > 1
    assert model.decode(code).min() >= 0
    assert model.decode(code).max() <= 1


def test_kl_against_torch() -> None:
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    sigma = torch.exp(0.5 * log_variance)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, sigma), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(Posterior(mean, sigma, log_variance).kl(), expected)


def test_draws_differ_from_each_other_and_repeat_with_the_seed() -> None:
    model = make(bottleneck={"kind": "gaussian"})
    image = torch.rand(2, 1, 6, 6)
    with torch.no_grad():
        one, two = (model.sample_posterior(image, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.shape == (3, 2, 1, 6, 6)
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_importance_weighting_tightens_the_bound_towards_the_true_value() -> None:
    """A linear decoder and unit noise make p(x) a Gaussian whose density is known."""
    model = make(bottleneck={"kind": "gaussian"}, net={"kind": "mlp", "latent_dim": 2, "hidden": []},
                 likelihood={"kind": "gaussian", "output": "linear", "sigma": "fixed", "value": 0.5})  # fmt: skip
    image = torch.rand(3, 1, 6, 6)
    weight, bias = (p.detach().double() for p in model.decoder[0].parameters())
    covariance = weight @ weight.T + 0.25 * torch.eye(36).double()
    truth = torch.distributions.MultivariateNormal(bias, covariance).log_prob(image.flatten(1).double())
    with torch.no_grad():
        g = torch.Generator().manual_seed(0)
        bounds = {k: model.log_likelihood(image, samples=k, generator=g).double() for k in (1, 10, 20_000)}
    assert (bounds[20_000] - truth).abs().max() < 0.05
    assert float(bounds[1].mean()) < float(bounds[10].mean()) < float(truth.mean()) + 0.01


def test_chunks_do_not_change_the_bound() -> None:
    model, image = make(bottleneck={"kind": "gaussian"}), torch.rand(3, 1, 6, 6)
    with torch.no_grad():
        one, two = (
            model.log_likelihood(image, samples=10, generator=torch.Generator().manual_seed(0), max_elements=size)
            for size in (3 * 36 * 4, 10**6)
        )
    torch.testing.assert_close(one, two)


def test_labels_and_unknown_densities_are_refused() -> None:
    with pytest.raises(ModelError, match="knows no classes"):
        make().sample(2, label=torch.tensor([1, 2]))
    with pytest.raises(ModelError, match="no density 'gmm'"):
        make().sample(2, density="gmm")


MOMENT = SeededStepContext(seed=1, seen=0, step=0, batch=64)


@pytest.mark.parametrize(
    "plain", [{"kind": "gaussian"}, {"kind": "masking"}, {"kind": "masking", "block": 4}, {"kind": "salt_and_pepper"}]
)
def test_corruption_changes_the_input_and_not_the_original(plain: dict) -> None:
    image = torch.full((64, 3, 10, 14), 0.5)
    config = CorruptionConfig.model_validate(plain)
    changed = config.apply(image, MOMENT)
    assert changed.shape == image.shape
    assert (image == 0.5).all()
    assert not torch.equal(changed[0], changed[1])
    assert config.active


def test_corruptions_are_as_strong_as_they_say() -> None:
    image = torch.full((64, 1, 32, 32), 0.5)

    def apply(**plain) -> torch.Tensor:
        return CorruptionConfig.model_validate(plain).apply(image, MOMENT)

    noise = apply(kind="gaussian", sigma=0.8) - image
    assert float(noise.std()) == pytest.approx(0.8, rel=0.02)
    assert float((image + noise).max()) > 1, "noise must not be clipped"
    assert float((apply(kind="masking", share=0.3) == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float((apply(kind="masking", share=0.3, block=8) == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    salted = apply(kind="salt_and_pepper", share=0.2)
    for value in (0.0, 1.0):
        assert float((salted == value).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(apply(kind="none"), image)


def test_evaluating_puts_every_mode_back() -> None:
    model = make().train()
    model.encoder.eval()
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert not model.encoder.training
    assert torch.is_grad_enabled()


def test_gaussian_bottleneck_survives_an_extreme_image() -> None:
    model = make(bottleneck={"kind": "gaussian"})
    posterior = model.bottleneck.posterior(torch.full((1, 6), 1e4))
    assert torch.isfinite(posterior.kl()).all()
    assert math.isfinite(float(posterior.sigma.max()))
