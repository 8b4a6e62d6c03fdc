"""Bounds on a linear Gaussian model, whose likelihood is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from ectype.config.schema import DataInfo, ModelConfig
from ectype.core.random import SeededStepContext
from ectype.evaluation.metrics.likelihood import (
    bits_per_dimension,
    bound_terms,
    likelihood_of,
    log_likelihood_bound,
)
from ectype.models.autoencoder import VariationalAutoencoder
from ectype.models.base import evaluating

SIGMA, D, K = 0.4, 16, 3
IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear_gaussian(*, exact: bool) -> tuple[VariationalAutoencoder, torch.Tensor]:
    """X = W z + b + σ ε with its true posterior, or one that is too wide, and log p of `IMAGES`."""
    config = ModelConfig.model_validate(
        {
            "kind": "autoencoder",
            "net": {"kind": "mlp", "latent_dim": K, "hidden": []},
            "bottleneck": {"kind": "gaussian"},
            "likelihood": {"kind": "gaussian", "output": "linear", "sigma": "fixed", "value": SIGMA},
        }
    )
    model = config.build(DataInfo(channels=1, size=(4, 4)))
    assert isinstance(model, VariationalAutoencoder)
    generator = torch.Generator().manual_seed(1)
    # Orthogonal columns make the true posterior diagonal, as the model's is.
    w = torch.linalg.qr(torch.randn(D, K, generator=generator)).Q * torch.tensor([0.9, 0.5, 0.3])
    b = 0.5 + 0.1 * torch.randn(D, generator=generator)
    variance = 1 / (1 + (w**2).sum(0) / SIGMA**2)
    to_mean = (w / SIGMA**2 * variance).T
    encoder = next(layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.Linear))
    decoder = next(layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros(K, D)]))
        log_variance = torch.log(variance) + (0.0 if exact else 0.5)
        encoder.bias.copy_(torch.cat([-to_mean @ b, log_variance]))
        decoder.weight.copy_(w)
        decoder.bias.copy_(b)
    truth = MultivariateNormal(b, w @ w.T + SIGMA**2 * torch.eye(D)).log_prob(IMAGES.flatten(1))
    return model.eval(), truth


def bound(model: VariationalAutoencoder, samples: int, seed: int = 2) -> torch.Tensor:
    with evaluating(model):
        return log_likelihood_bound(model, IMAGES, samples=samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [1, 7])
def test_with_the_true_posterior_the_bound_is_the_likelihood(samples):
    model, truth = linear_gaussian(exact=True)
    torch.testing.assert_close(bound(model, samples), truth, atol=2e-4, rtol=1e-5)


def test_with_another_posterior_the_bound_rises_to_the_likelihood():
    model, truth = linear_gaussian(exact=False)
    gaps = [float((truth - bound(model, k)).mean()) for k in (1, 10, 2000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[0] > 0.1
    assert abs(gaps[2]) < 0.01


def test_negative_elbo_is_the_likelihood_plus_the_gap_of_the_posterior():
    model, truth = linear_gaussian(exact=False)
    with evaluating(model):
        # Averaged over draws; KL(q ‖ p(z|x)) of variances that differ by e^½ is ½ (e^½ − 1 − ½) for each number.
        terms = [bound_terms(model, IMAGES, SeededStepContext(0, i, 0, batch=40)) for i in range(400)]
    gap = K * 0.5 * (math.exp(0.5) - 1.5)
    found = torch.stack([t.negative_elbo for t in terms]).mean()
    assert found.item() == pytest.approx(float(-truth.mean()) + gap, abs=0.02)
    assert terms[0].constant == 0
    assert terms[0].kl.shape == (40, K)


def test_half_squares_lack_their_constant_which_the_elbo_has():
    config = ModelConfig.model_validate(
        {
            "kind": "autoencoder",
            "net": {"kind": "mlp", "latent_dim": 2, "hidden": []},
            "bottleneck": {"kind": "gaussian"},
            "likelihood": {"kind": "mse"},
        }
    )
    model = config.build(DataInfo(channels=1, size=(4, 4)))
    with evaluating(model):
        terms = bound_terms(model, IMAGES, SeededStepContext(0, 0, 0, batch=40))
    torch.testing.assert_close(terms.negative_elbo - terms.total, torch.full((40,), 8 * math.log(2 * math.pi)))


def test_models_without_posterior_are_refused():
    config = ModelConfig.model_validate({"kind": "autoencoder", "net": {"kind": "mlp", "latent_dim": 2}})
    model = config.build(DataInfo(channels=1, size=(4, 4)))
    assert likelihood_of(model) is not None
    assert likelihood_of(torch.nn.Linear(1, 1)) is None
    with pytest.raises(TypeError, match="no posterior"):
        bound_terms(model, IMAGES, SeededStepContext(0, 0, 0, batch=40))


def test_bits_per_dimension_of_a_fair_coin_per_pixel_is_one():
    nats = torch.full((3,), -784 * math.log(2))
    torch.testing.assert_close(bits_per_dimension(nats, 784), torch.ones(3))
