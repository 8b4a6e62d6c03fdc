"""A critic with a reconstruction loss: when it joins, its weight, and what happens when it damages the model."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ectype.analysis.diagnose.advice import advice_for_verdict
from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.errors import ModelError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.evaluation.monitor import Monitor
from ectype.evaluation.validation import critic_damage_verdict
from ectype.nets.patch_critic import PatchCriticConfig
from ectype.objectives.base import HasTrainingProgress, LossTerms
from ectype.objectives.critic_term import CriticTerm, CriticTermConfig
from ectype.objectives.reconstruction import Reconstruction
from ectype.training.run import train
from ectype.training.trainer import Trainer

INFO = DataInfo(1, (16, 16))
SMALL = {"width": 8, "max_width": 16, "levels": 1}


class Sines:
    def __len__(self) -> int:
        return 64

    def __call__(self, index: torch.Tensor, context: object) -> Batch:
        steps = (index + 1).view(-1, 1, 1, 1)
        grid = torch.linspace(0, 3, 16)
        return Batch(0.5 + 0.5 * torch.sin(steps * grid.view(1, 1, -1, 1) + steps.sqrt() * grid.view(1, 1, 1, -1)))


def recipe(**changes: Any) -> Recipe:
    fixed = {
        "net.width": 8,
        "net.latent": [2, 8, 8],
        "train.batch": 8,
        "run.threads": 1,
        "objective.loss": {"l1": 1.0},
        "adversary.weight": 0.5,
        "adversary.critic": SMALL,
        "adversary.starts": 0,
        "adversary.warmup": 3,
        "ema_images": 40,
    }
    return load_recipe("ae", {**fixed, **changes})


def trainer(found: Recipe, budget: int = 1000) -> Trainer:
    torch.manual_seed(0)
    objective = found.objective.build(found.model.build(INFO), INFO, images=budget)
    assert isinstance(objective, Reconstruction)
    return Trainer(objective, Sines(), found, budget=budget, device=torch.device("cpu"), world=World())


def run_steps(found: Trainer, steps: int) -> list[dict[str, float]]:
    metrics = []
    for _ in range(steps):
        found.step()
        metrics.append(found.take_metrics())
    return metrics


def critic_of(found: Trainer) -> CriticTerm:
    assert isinstance(found.objective, Reconstruction)
    assert found.objective.critic is not None
    return found.objective.critic


def test_the_critic_learns_before_its_gradient_counts_and_then_rises_slowly() -> None:
    running = trainer(recipe())
    metrics = run_steps(running, 9)
    assert all("critic/adversarial" in line for line in metrics)
    contributes = ["model/adversarial" in line for line in metrics]
    assert contributes == [False] * 4 + [True] * 5  # the critic's fourth update is the first after the warmup
    weights = [line["model/adversarial weight"] for line in metrics[4:]]
    assert weights[0] == 0  # the gradients have not been compared yet
    assert all(weight > 0 for weight in weights[1:])
    assert running.objective.critic_phase == "judged"


def test_without_a_warm_up_the_weight_is_that_of_vqgan() -> None:
    """The norm of the term's gradient at the last layer is `weight` times that of the rest, one update later."""
    running = trainer(recipe(**{"adversary.warmup": 0}))
    run_steps(running, 5)
    objective, before = running.objective, copy.deepcopy(running.objective)
    assert isinstance(before, Reconstruction)
    assert isinstance(objective, Reconstruction)
    batch = Sines()(running.order.take(running.seen, 8), None)
    context = SeededStepContext(running.recipe.train.seed, running.seen, running.step_count, "model", 0, 8)
    scored = before.score(batch, context)
    rest = LossTerms({name: term for name, term in scored.terms.items() if name != "adversarial"}).total()
    last = before.model.last_layer
    one, two = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rest, scored.terms["adversarial"][1])
    )
    running.step()
    assert float(critic_of(running).ratio) == pytest.approx(float(one / (two + 1e-4)), rel=1e-4)
    assert float(scored.terms["adversarial"][0]) == pytest.approx(0.5 * float(before.critic.ratio))  # type: ignore[union-attr]


def test_micro_batches_change_nothing() -> None:
    """With SGD, because Adam would amplify the rounding errors of gradients that are zero."""
    plain = {"adversary.warmup": 1, "optimizer.name": "sgd", "optimizer.lr": 0.01, "optimizer.betas": [0.5, 0.9]}
    whole, split = trainer(recipe(**plain)), trainer(recipe(**plain, micro_batch=3))
    for running in (whole, split):
        run_steps(running, 8)
    for key, value in whole.objective.state_dict().items():
        torch.testing.assert_close(split.objective.state_dict()[key], value, atol=1e-5, rtol=1e-4, msg=key)


def test_resuming_is_bit_equal_before_and_after_it_counts() -> None:
    for stop in (2, 6):
        whole, half = trainer(recipe()), trainer(recipe())
        run_steps(whole, 10)
        run_steps(half, stop)
        state = copy.deepcopy(half.tensors())
        resumed = trainer(recipe())
        resumed.load(state, seen=half.seen, steps=half.step_count)
        run_steps(resumed, 10 - stop)
        for name, group in whole.tensors().items():
            for key, value in group.items():
                assert torch.equal(value, resumed.tensors()[name][key]), key


def test_it_joins_when_the_reconstruction_has_settled_or_at_half_of_the_budget() -> None:
    config = CriticTermConfig(weight=0.5, critic=PatchCriticConfig(**SMALL))

    def after(losses: list[float], images: int = 10**9) -> CriticTerm:
        term = CriticTerm(config, INFO, images=images)
        for i, loss in enumerate(losses):
            term.after_model_update({"so far": torch.tensor([loss, 8.0 * i])})
        return term

    falling = [math.exp(-i / 500) for i in range(2000)]
    assert not after(falling).has_joined()
    assert after([*falling, *[falling[-1]] * 3000]).has_joined()
    below = [loss - 500 for loss in falling]  # as a negative log density can be
    assert after([*below, *[below[-1]] * 3000]).has_joined()
    assert not after([-500 * math.exp(i / 500) for i in range(2000)]).has_joined()
    assert not after([1.0] * 100).has_joined()  # too early to decide
    assert after(falling[:100], images=1500).has_joined()  # half of the budget


def test_taking_weights_over_has_the_critic_join_anew() -> None:
    running = trainer(recipe())
    run_steps(running, 9)
    term = critic_of(running)
    weights = copy.deepcopy(term.adversary.state_dict())
    assert isinstance(term, HasTrainingProgress)
    term.reset_progress()
    assert running.objective.critic_phase == "waiting"
    assert float(term.played) == float(term.ratio) == 0
    assert all(torch.equal(value, weights[key]) for key, value in term.adversary.state_dict().items())


def test_a_rehearsal_has_the_critic_in_the_game() -> None:
    copied = trainer(recipe(**{"adversary.warmup": 1000, "adversary.starts": "settled"})).dry_run_copy()
    metrics = run_steps(copied, 1)[0]
    assert "model/adversarial" in metrics
    assert "critic/adversarial" in metrics


def test_a_cost_that_the_bottleneck_does_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match=r"weights=\{KL: 1e-06\}: this bottleneck has no such penalty \(it has none\)"):
        trainer(recipe(**{"objective.weights": {"KL": 1e-6}}))
    found = trainer(recipe(**{"objective.weights": {"KL": 0.5}, "bottleneck": "gaussian", "adversary.weight": 0.0}))
    assert isinstance(found.objective, Reconstruction)
    assert found.objective.weights == {"KL": 0.5 / 256}  # the loss is a mean over 256 elements


def test_a_spoiled_reconstruction_is_noticed_and_the_critic_asked_for_less() -> None:
    monitor = Monitor(100, patience=1, stop_on_fatal=True)

    def check(seen: int, value: float, phase: Any) -> bool:
        values = {"l1": value}
        return monitor.record(seen, values, critic_damage_verdict(values, monitor), phase)

    assert check(100, 1.0, "waiting")
    assert not check(200, 1.1, "waiting")
    assert not monitor.done  # patience waits for the critic
    assert check(300, 0.5, "waiting")
    assert check(400, 0.55, "judged")  # the newest counts as the best now
    assert check(500, 0.6, "judged")
    assert monitor.best_seen == 500
    assert not check(600, 0.9, "judged")
    assert monitor.fatal is None
    assert not check(700, math.nan, "judged")
    assert monitor.fatal == "spoiled"
    assert monitor.healthy_seen == 500
    assert "spoiled" in monitor.reason()
    assert Monitor.restored(monitor.state()) == monitor
    (advice,) = advice_for_verdict(recipe(), "spoiled")
    assert advice.overrides == {"objective.adversary.weight": 0.125, "objective.adversary.warmup": 6}


@pytest.mark.parametrize("levels, receptive_field", [(2, 34), (3, 70)])
def test_a_patch_critic_sees_as_much_as_that_of_pix2pix(levels: int, receptive_field: int) -> None:
    critic = PatchCriticConfig(width=4, levels=levels).build(3, (128, 128), 0)
    # Without group normalization, which depends on the whole map.
    for place, part in enumerate(critic.body):  # type: ignore[arg-type]
        if isinstance(part, torch.nn.GroupNorm):
            critic.body[place] = torch.nn.Identity()  # type: ignore[operator]
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    scores = critic(image, None)
    scores[0, scores.shape[1] // 2 + math.isqrt(scores.shape[1]) // 2].sum().backward()
    assert image.grad is not None
    rows = (image.grad.abs().sum((0, 1, 3)) > 0).sum()
    assert int(rows) == receptive_field


def test_every_size_can_be_judged_by_patches() -> None:
    for size in ((8, 8), (28, 28), (31, 17), (64, 64)):
        critic = PatchCriticConfig(width=4).build(1, size, 2)
        found = critic(torch.rand(2, 1, *size), torch.rand(2, 2))
        assert found.shape[0] == 2
        assert found.shape[2] == critic.num_features


def test_small_code_maps_should_decode_to_small_images() -> None:
    found = trainer(recipe(**{"adversary.weight": 0.0, "equivariance": {"weight": 0.5, "scales": [0.5], "every": 2}}))
    metrics = run_steps(found, 4)
    assert metrics[0]["equivariance"] > 0
    assert "equivariance" not in metrics[1]
    objective = found.objective
    assert isinstance(objective, Reconstruction)
    batch = Sines()(torch.arange(4), None)
    terms = objective.score(batch, SeededStepContext(0, 0, 0, batch=4)).terms
    assert terms["equivariance"][0] == 1.0  # weight · every
    assert set(objective.validate(objective.model, batch, SeededStepContext(0, 0, 0, batch=4)).terms) == {"l1"}


def test_a_vector_has_no_small_version() -> None:
    with pytest.raises(ModelError, match=r"needs a code map.*vector of 64.*latent="):
        trainer(recipe(**{"net.latent": None, "net.latent_dim": 64, "equivariance.weight": 0.5}))


def test_losses_by_weight_stand_for_the_likelihood() -> None:
    found = trainer(recipe(**{"adversary.weight": 0.0, "loss": "{mse: 0.2, ssim: 0.8}"}))
    objective = found.objective
    assert isinstance(objective, Reconstruction)
    batch = Sines()(torch.arange(4), None)
    scored = objective.score(batch, SeededStepContext(0, 0, 0, batch=4))
    assert scored.title() == "0.2·mse + 0.8·ssim"
    raw = objective.model.forward_train(batch.image, SeededStepContext(0, 0, 0, batch=4)).raw
    output = objective.model.likelihood.mean(raw)
    torch.testing.assert_close(scored.terms["mse"][1], (output - batch.image).square().mean())


@pytest.mark.slow
def test_a_run_that_the_critic_spoils_is_begun_again_with_less_of_it(tmp_path: Path) -> None:
    found = recipe(
        **{
            "data.source": "digits",
            "data.size": 16,
            "train.images": 4000,
            "monitor.every": 160,
            "monitor.on_collapse": "rollback",
            "adversary.starts": 800,
            "adversary.warmup": 10,
            "adversary.weight": 3000.0,
            "adversary.adaptive": False,
            "run.pictures": 0,
        }
    )
    run = train(found, out=tmp_path / "run")
    summary = run.summary()
    assert summary["state"] == "spoiled"
    first = summary["attempts"][0]
    assert first["changed"] == {"objective.adversary.weight": 750.0, "objective.adversary.warmup": 20}
    assert first["from"] is not None
