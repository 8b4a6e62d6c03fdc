from __future__ import annotations

import math

import pytest
import torch

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.models.autoencoder import AutoencoderConfig
from ectype.objectives.reconstruction import ElboConfig, ReconstructionConfig

INFO = DataInfo(1, (6, 6), binary=True)
BATCH = Batch(torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)).round())
MOMENT = SeededStepContext(0, 0, 0, batch=8)


def model(bottleneck: str = "gaussian", likelihood: str = "mse", net: str = "mlp", **keys):
    torch.manual_seed(0)
    parts = {"bottleneck": {"kind": bottleneck}, "likelihood": {"kind": likelihood}, "net": {"kind": net}, **keys}
    return AutoencoderConfig.model_validate(parts).build(INFO)


def scored(config: ElboConfig, context: SeededStepContext = MOMENT, **keys):
    return config.build(model(**keys), INFO, images=1000).score(BATCH, context)


def test_terms_are_sums_per_image_and_the_title_says_what_they_are() -> None:
    found = scored(ElboConfig())
    assert found.title() == "½·SSE + KL"
    net = model()
    posterior = net.posterior(BATCH.image)
    code = posterior.sample(MOMENT.normal("code", *posterior.mean.shape))
    squares = 0.5 * (net.decode_unclamped(code) - BATCH.image).square().sum((1, 2, 3)).mean()
    kl = posterior.kl().sum(1).mean()
    torch.testing.assert_close(found.terms["½·SSE"][1], squares)
    torch.testing.assert_close(found.terms["KL"][1], kl)
    torch.testing.assert_close(found.total(), squares + kl)
    elbo = squares + kl + 18 * math.log(2 * math.pi)
    torch.testing.assert_close(found.notes["−ELBO (Gaussian σ=1)"], elbo.detach())


@pytest.mark.parametrize(
    "likelihood, title, bound",
    [
        ("bce", "BCE + KL", None),
        ("bernoulli", "−log p (Bernoulli) + KL", "−ELBO (Bernoulli)"),
        ("l1", "SAE + KL", "−ELBO (Laplace b=1)"),
        ("gaussian", "−log p (Gaussian, optimal σ) + KL", "−ELBO (Gaussian, optimal σ)"),
    ],
)
def test_names_are_earned(likelihood: str, title: str, bound: str | None) -> None:
    found = scored(ElboConfig(), likelihood=likelihood)
    assert found.title() == title
    assert [name for name in found.notes if "ELBO" in name] == ([bound] if bound else [])


def test_beta_rises_and_validation_takes_its_end() -> None:
    config = ElboConfig(beta=4, warmup=0.5)
    objective = config.build(model(), INFO, images=1000)
    weights = [objective.score(BATCH, MOMENT._replace(seen=seen)).terms["KL"][0] for seen in (0, 125, 250, 500, 900)]
    assert weights == [0, 1, 2, 4, 4]
    assert objective.validate(objective.model, BATCH, MOMENT).title() == "½·SSE + 4·KL"


def test_free_bits_cost_nothing() -> None:
    plain, free = scored(ElboConfig()), scored(ElboConfig(free_bits=1000.0))
    clamped = free.terms["KL, 1000 nats free"][1]
    assert float(clamped.detach()) == 1000 * 16
    torch.testing.assert_close(free.notes["KL"], plain.terms["KL"][1].detach())
    tiny = scored(ElboConfig(free_bits=1e-9))
    torch.testing.assert_close(tiny.total(), plain.total(), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_split_says_why() -> None:
    def why(objective_config, **keys) -> str | None:
        return objective_config.build(model(**keys), INFO, images=10).batch_dependent

    assert why(ElboConfig()) is None
    assert "free bits" in why(ElboConfig(free_bits=0.1))
    assert "whole batch" in why(ElboConfig(), likelihood="gaussian")
    small = DataInfo(1, (12, 12))
    net = AutoencoderConfig.model_validate({"net": {"kind": "small-conv"}}).build(small)
    assert "BatchNorm" in ReconstructionConfig().build(net, small, images=10).batch_dependent


def test_an_objective_refuses_a_model_that_it_cannot_train() -> None:
    with pytest.raises(ModelError, match="set bottleneck=gaussian"):
        ElboConfig().build(model(bottleneck="identity"), INFO, images=10)
    with pytest.raises(ModelError, match="trains autoencoders"):
        ReconstructionConfig().build(torch.nn.Linear(1, 1), INFO, images=10)


def test_noise_is_on_the_input_only() -> None:
    net = model(bottleneck="identity", corruption={"kind": "gaussian", "sigma": 0.5})
    seen: list[torch.Tensor] = []
    net.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = ReconstructionConfig().build(net, INFO, images=10).score(BATCH, MOMENT)
    noise = seen[0] - BATCH.image
    assert float(noise.std()) == pytest.approx(0.5, rel=0.15)
    assert seen[0].max() > 1, "the noisy input must not be clipped"
    output = net.decode_unclamped(net.bottleneck.code(net.encoder(seen[0])))
    squares = 0.5 * (output - BATCH.image).square().sum((1, 2, 3))
    torch.testing.assert_close(found.terms["½·SSE"][1], squares.mean())


def test_penalties_of_a_bottleneck_are_weighted() -> None:
    found = ReconstructionConfig(weights={"KL": 1e-6}).build(model(), INFO, images=10).score(BATCH, MOMENT)
    assert found.title() == "½·SSE + 1e-06·KL"


@pytest.mark.parametrize(
    "likelihood", [{"kind": "gaussian", "sigma": "learned"}, {"kind": "discretised_logistic"}], ids=str
)
def test_losses_that_would_leave_a_scale_unlearnt_are_refused(likelihood: dict) -> None:
    info = DataInfo(1, (16, 16))
    net = {"kind": "mlp", "latent_dim": 3, "hidden": [8]}
    model = AutoencoderConfig.model_validate({"net": net, "likelihood": likelihood}).build(info)
    with pytest.raises(ModelError, match="the scale of the likelihood is not learned"):
        ReconstructionConfig.model_validate({"kind": "reconstruction", "loss": {"l1": 1.0}}).build(
            model, info, images=1
        )
