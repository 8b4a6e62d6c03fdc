from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from ectype.config.schema import DataInfo, ObjectiveConfig
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.models.autoencoder import AutoencoderConfig
from ectype.models.hierarchical import HierarchicalAutoencoder, HierarchicalConfig
from ectype.objectives import importance
from ectype.objectives.importance import CIWAEConfig, IWAEConfig, MIWAEConfig, PIWAEConfig, log_mean_exp

INFO = DataInfo(1, (4, 4), binary=True)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
MOMENT = SeededStepContext(seed=0, seen=0, step=0, batch=6)


def vae() -> nn.Module:
    torch.manual_seed(0)
    return AutoencoderConfig.model_validate(
        {
            "net": {"kind": "mlp", "latent_dim": 3, "hidden": [8]},
            "bottleneck": {"kind": "gaussian"},
            "likelihood": {"kind": "bernoulli"},
        }
    ).build(INFO)


def deep(**keys: Any) -> HierarchicalAutoencoder:
    torch.manual_seed(0)
    config = {"latents": [4, 2], "hidden": [[8], [6]], "likelihood": {"kind": "bernoulli"}, **keys}
    return HierarchicalConfig.model_validate(config).build(INFO)


def log_weights(model: Any, k: int) -> Tensor:
    """Return log weights of the same draws as the objective's."""
    return model.log_weights(IMAGES, lambda use, *shape: MOMENT.normal(use, 6, k, *shape).transpose(0, 1))


def score(config: ObjectiveConfig, model: nn.Module, which: int = 0) -> Any:
    return config.build(model, INFO, images=100).turns[which].score(Batch(IMAGES), MOMENT)


@torch.no_grad()
@pytest.mark.parametrize("make", [vae, deep])
def test_each_bound_is_what_its_paper_says(make: Any) -> None:
    model = make()
    w = log_weights(model, 12)
    assert score(IWAEConfig(samples=12), model).total().item() == pytest.approx(
        -float(log_mean_exp(w).mean()), rel=1e-6
    )
    one = log_weights(model, 1)
    assert score(IWAEConfig(samples=1), model).total().item() == pytest.approx(-float(one.mean()), rel=1e-6)
    grouped = torch.stack([log_mean_exp(part) for part in w.split(4)]).mean()
    assert score(MIWAEConfig(groups=3, samples=4), model).total().item() == pytest.approx(-float(grouped), rel=1e-6)
    mixed = 0.3 * w.mean() + 0.7 * log_mean_exp(w).mean()
    assert score(CIWAEConfig(samples=12, mix=0.3), model).total().item() == pytest.approx(-float(mixed), rel=1e-6)
    assert float(w.mean()) < float(grouped) < float(log_mean_exp(w).mean())


def test_piwae_gives_encoder_and_decoder_a_bound_each() -> None:
    model = vae()
    piwae = PIWAEConfig(groups=3, samples=4)
    objective = piwae.build(model, INFO, images=100)
    assert [turn.player for turn in objective.turns] == ["encoder", "decoder"]
    held = {id(p) for player in objective.players.values() for p in player.parameters()}
    assert held == {id(p) for p in model.parameters()}
    assert score(piwae, model).total() == score(MIWAEConfig(groups=3, samples=4), model).total()
    assert score(piwae, model, 1).total() == score(IWAEConfig(samples=12), model).total()


def test_training_is_judged_by_the_bound_of_all_draws() -> None:
    model = vae()
    for config in (PIWAEConfig(groups=3, samples=4), MIWAEConfig(groups=3, samples=4), CIWAEConfig(samples=12)):
        found = config.build(model, INFO, images=100).validate(model, Batch(IMAGES), MOMENT)
        assert found.total() == score(IWAEConfig(samples=12), model).total()


@pytest.mark.parametrize("make", [vae, deep])
def test_a_check_decodes_a_few_images_at_a_time(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = make(), MIWAEConfig(groups=3, samples=4)
    whole = config.build(model, INFO, images=100).validate(model, Batch(IMAGES), MOMENT)
    decoded = []
    inner = model.log_weights
    monkeypatch.setattr(model, "log_weights", lambda image, draw: decoded.append(len(image)) or inner(image, draw))
    monkeypatch.setattr(importance, "MAX_ELEMENTS_PER_VALIDATION_DECODE", 4 * 12 * 16)
    parts = config.build(model, INFO, images=100).validate(model, Batch(IMAGES), MOMENT)
    assert decoded == [4, 2]
    torch.testing.assert_close(parts.total(), whole.total())


def test_batch_norm_is_said_to_want_whole_batches() -> None:
    objective = IWAEConfig(samples=2).build(vae(), INFO, images=100)
    assert objective.batch_dependent is None
    objective.extra = nn.BatchNorm2d(2)
    assert "BatchNorm" in str(objective.batch_dependent)


def test_two_layers_weigh_as_their_densities_say() -> None:
    model = deep().eval()
    noise = {"code 1": torch.randn(5, 6, 4), "code 2": torch.randn(5, 6, 2)}
    with torch.no_grad():
        found = model.log_weights(IMAGES, lambda use, *shape: noise[use])
        flat = IMAGES.flatten(1)

        def gaussian(layer: nn.Module, x: Tensor) -> Normal:
            mean, log_variance = layer(x).chunk(2, -1)
            return Normal(mean, (0.5 * log_variance).exp())

        q1 = gaussian(model.up[0], flat)
        z1 = q1.loc + q1.scale * noise["code 1"]
        q2 = gaussian(model.up[1], z1)
        z2 = q2.loc + q2.scale * noise["code 2"]
        pixels = Bernoulli(logits=model.decoder(z1.flatten(0, 1)).view(5, 6, -1)).log_prob(flat).sum(-1)
        expected = pixels + gaussian(model.down[0], z2).log_prob(z1).sum(-1) + Normal(0, 1).log_prob(z2).sum(-1)
        expected -= q1.log_prob(z1).sum(-1) + q2.log_prob(z2).sum(-1)
    torch.testing.assert_close(found, expected)


def test_one_layer_is_the_variational_autoencoder() -> None:
    plain, model = vae(), deep(latents=[3], hidden=[[8]], activation="relu")
    theirs = [parameter.detach() for parameter in plain.parameters()]
    with torch.no_grad():
        for ours, parameter in zip(model.parameters(), theirs, strict=True):
            ours.copy_(parameter)
        noise = torch.randn(7, 6, 3)
        torch.testing.assert_close(
            model.log_weights(IMAGES, lambda *_: noise), plain.log_weights(IMAGES, lambda *_: noise)
        )


def test_a_deep_model_samples_from_the_top_and_repeats_itself() -> None:
    model = deep().eval()
    with torch.no_grad():
        one, two = (model.sample(9, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two)
        assert one.shape == (9, 1, 4, 4)
        bounds = [
            float(model.log_likelihood(IMAGES, samples=k, generator=torch.Generator().manual_seed(0)).mean())
            for k in (1, 50, 2000)
        ]
    assert bounds == sorted(bounds)


def test_what_states_no_density_is_refused() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "mlp", "latent_dim": 3, "hidden": [8]}}).build(INFO)
    with pytest.raises(ModelError, match="importance-weighted objectives need a posterior"):
        IWAEConfig().build(model, INFO, images=100)
    with pytest.raises(ModelError, match="is not a likelihood"):
        deep(likelihood={"kind": "bce"})
