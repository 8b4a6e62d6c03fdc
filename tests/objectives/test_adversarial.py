from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.errors import EctypeWarning, ModelError, RecipeError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.losses.adversarial import squared_gradient_norm
from ectype.objectives.adversary import Adversary, AdversaryConfig, Conditioning, CriticAugment, CriticAugmentConfig
from ectype.runs import checkpoint
from ectype.training.trainer import Diverged, Trainer

INFO = DataInfo(1, (8, 8), classes=("a", "b", "c"), frequencies=(0.5, 0.25, 0.25))
MLP = {"kind": "mlp", "hidden": [16]}
NONE = {"r1": 0.0, "r2": 0.0, "gradient": 0.0, "clip": None, "every": 1}
B = 12


class Labelled:
    """Random images whose mean depends on their class."""

    def __init__(self, n: int = 60) -> None:
        self.label = torch.arange(n) % 3
        noise = 0.2 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        self.image = noise + 0.3 * self.label[:, None, None, None]

    def __len__(self) -> int:
        return len(self.image)

    def __call__(self, index: Tensor, context: SeededStepContext) -> Batch:
        return Batch(self.image[index], self.label[index])


def recipe(**changes) -> Recipe:
    fixed = {
        "model.latent_dim": 4,
        "model.net": MLP,
        "objective.adversary.critic": MLP,
        "train.batch": B,
        "train.ema_images": 60,
        "train.channels_last": False,
    }
    return load_recipe("gan", {**fixed, **changes})


def trainer(found: Recipe, world: World | None = None) -> Trainer:
    torch.manual_seed(5)
    objective = found.objective.build(found.model.build(INFO), INFO, images=600)
    device = torch.device("cpu")
    return Trainer(objective, Labelled(), found, budget=600, device=device, world=world or World())


def run_steps(running: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        running.step()
    return running


def play(found: Recipe, steps: int) -> Trainer:
    return run_steps(trainer(found), steps)


def context(step: int = 0, seed: int = 1) -> SeededStepContext:
    return SeededStepContext(seed, step * B, step, batch=B)


def adversary(conditioning: Conditioning | None = None, **changes) -> Adversary:
    torch.manual_seed(2)
    return Adversary(AdversaryConfig.model_validate({"critic": MLP, **changes}), INFO, conditioning)


REAL = Labelled()(torch.arange(B), context())
FAKE = torch.rand(B, 1, 8, 8, generator=torch.Generator().manual_seed(9))

VARIANTS = {
    "relativistic": {},
    "hinge": {"objective.adversary.loss": "hinge", "objective.adversary.penalty": NONE},
    "least squares": {"objective.adversary.loss": "least_squares"},
    "wgan-gp": {
        "objective.adversary.loss": "wasserstein",
        "objective.adversary.penalty": {**NONE, "gradient": 10.0},
        "objective.critic_steps": 3,
    },
    "packed": {"objective.adversary.pack": 2},
    "changed": {
        "objective.adversary.augment": {
            "policy": ["flip", "translation", "crop", "colour", "cutout"],
            "probability": "adaptive",
            "target": 0.1,
            "adapt_moves": 20,
        }
    },
    "conditional": {"model.condition": "concat", "objective.condition": "projection"},
    "embedded": {"model.condition": "embedding", "objective.condition": "embedding"},
    "packed and conditional": {
        "model.condition": "concat",
        "objective.condition": "concat",
        "objective.adversary.pack": 3,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_do_not_change_what_is_computed(name: str) -> None:
    # Adam's first updates are signs of gradients, which rounding errors flip where they are nearly zero.
    plain = {**VARIANTS[name], "optimizer.name": "sgd", "lr": 0.05}
    one, two = (play(recipe(**plain, **extra), 5) for extra in ({}, {"run.micro_batch": 6}))
    for key, value in one.objective.state_dict().items():
        torch.testing.assert_close(two.objective.state_dict()[key], value, atol=2e-5, rtol=0, msg=key)


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_between_two_turns_it_goes_on_bit_equal(name: str, tmp_path: Path) -> None:
    """The checkpoint on disk is from the last check; the interrupted step is repeated with the same random draws."""
    found = recipe(**VARIANTS[name])
    whole = play(found, 7)
    broken = play(found, 4)
    checkpoint.save(tmp_path / "step", broken.tensors(), {"seen": broken.seen, "step": broken.step_count})

    def dies(batch: Batch, context: SeededStepContext) -> None:
        raise KeyboardInterrupt

    broken.objective.turns[1] = broken.objective.turns[1]._replace(score=dies)
    with pytest.raises(KeyboardInterrupt):
        run_steps(broken, 3)
    state = checkpoint.load_state(tmp_path / "step")
    files = {file.stem: checkpoint.load_tensors(file) for file in (tmp_path / "step").glob("*.safetensors")}
    torch.manual_seed(99)
    resumed = trainer(found)
    resumed.load(files, seen=state["seen"], steps=state["step"])
    run_steps(resumed, 3)
    expected, got = whole.tensors(), resumed.tensors()
    for group in expected:
        for key, value in expected[group].items():
            assert torch.equal(value, got[group][key]), f"{group}: {key}"


def test_a_step_of_the_critic_leaves_the_generator_alone_and_the_reverse() -> None:
    running = trainer(recipe())
    before = copy.deepcopy(running.objective.state_dict())
    running._take_turn(running.objective.turns[0], running.order.take(0, B))
    after = copy.deepcopy(running.objective.state_dict())
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all(key.startswith("adversary.") for key in changed)
    running._take_turn(running.objective.turns[1], running.order.take(0, B))
    last = running.objective.state_dict()
    assert {key.split(".")[0] for key in last if not torch.equal(after[key], last[key])} == {"generator"}


def test_critic_steps_are_moves_of_the_critic_for_each_of_the_generator() -> None:
    running = trainer(recipe(**{"objective.critic_steps": 3}))
    moved = []
    for _ in range(9):
        before = copy.deepcopy(running.objective.generator.state_dict())
        running.step()
        after = running.objective.generator.state_dict()
        moved.append(any(not torch.equal(before[key], after[key]) for key in before))
    assert sum(moved) == 3


def test_penalties_are_those_of_the_papers() -> None:
    """γ/2 · ‖∇D‖² at images in [−1, 1], as the norm over all elements: R1 at real and R2 at fake images."""
    found = adversary(penalty={**NONE, "r1": 3.0, "r2": 5.0})
    terms = found.critic_loss(REAL.image, FAKE, None, context()).terms
    for name, images, gamma in (("R1", REAL.image, 3.0), ("R2", FAKE, 5.0)):
        point = (images * 2 - 1).requires_grad_()
        expected = squared_gradient_norm(found.head(found.critic(point, None)).squeeze(1), point).mean()
        weight, value = terms[name]
        assert weight == gamma / 2
        torch.testing.assert_close(value, expected)


def test_lazy_penalties_come_every_few_moves_weighted_up() -> None:
    found = adversary(penalty={**NONE, "r1": 2.0, "r2": 2.0, "every": 4})
    names = [set(found.critic_loss(REAL.image, FAKE, None, context(step)).terms) for step in range(8)]
    assert [len(each) for each in names] == [3, 1, 1, 1, 3, 1, 1, 1]
    assert found.critic_loss(REAL.image, FAKE, None, context(4)).terms["R1"][0] == 4.0


def test_the_gradient_penalty_is_zero_for_a_critic_of_slope_one() -> None:
    found = adversary(critic={"kind": "mlp", "hidden": []}, loss="wasserstein", penalty={**NONE, "gradient": 10.0})
    with torch.no_grad():
        found.head.weight.copy_(torch.nn.functional.normalize(torch.randn(1, 64), dim=1))
    weight, value = found.critic_loss(REAL.image, FAKE, None, context()).terms["gradient penalty"]
    assert weight == 10.0
    assert value.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        found.head.weight.mul_(3)
    _, value = found.critic_loss(REAL.image, FAKE, None, context()).terms["gradient penalty"]
    assert value.item() == pytest.approx(4, abs=1e-4)


def test_wasserstein_without_a_bound_is_refused_and_clipping_warns() -> None:
    with pytest.raises(RecipeError, match=r"penalty\.gradient=10"):
        recipe(**{"objective.adversary.loss": "wasserstein", "objective.adversary.penalty": NONE})
    with pytest.warns(EctypeWarning, match=r"worse.*penalty\.gradient=10"):
        found = adversary(loss="wasserstein", penalty={**NONE, "clip": 0.01})
    found.after_update({"sign": torch.zeros(())})
    assert max(p.detach().abs().max().item() for p in found.parameters()) == pytest.approx(0.01)


def test_packed_images_are_judged_together() -> None:
    found = adversary(pack=3)
    image = REAL.image * 2 - 1
    scores = found.score(image, None, context(), ("real",))
    assert scores.shape == (4,)
    other = image.clone()
    other[4] = 0
    again = found.score(other, None, context(), ("real",))
    assert (scores != again).tolist() == [False, True, False, False]
    with pytest.raises(ModelError, match="pack=3 does not divide the 10"):
        found.score(image[:10], None, context(), ("real",))


@pytest.mark.parametrize("how", ["concat", "embedding", "projection"])
def test_a_critic_that_is_told_the_label_uses_it(how: str) -> None:
    found = adversary(Conditioning(how, 3, 5))
    if found.project is not None:
        torch.nn.init.normal_(found.project.weight)
    image = REAL.image * 2 - 1
    one = found.score(image, torch.zeros(B, dtype=torch.int64), context(), ("real",))
    two = found.score(image, torch.ones(B, dtype=torch.int64), context(), ("real",))
    assert not torch.allclose(one, two)
    with pytest.raises(ModelError, match="needs labels"):
        found.score(image, None, context(), ("real",))


def test_the_critic_is_shown_real_and_made_images_through_the_same_changes() -> None:
    config = CriticAugmentConfig(policy=("flip", "translation", "colour", "cutout"))
    augment = CriticAugment(config)
    image = REAL.image.clone().requires_grad_()
    augmented = augment(image, context(), "critic.real")
    assert augmented.shape == image.shape
    assert not torch.allclose(augmented, image)
    (gradient,) = torch.autograd.grad(augmented.square().sum(), image)
    assert (gradient != 0).float().mean() > 0.3  # cutout removes a part
    assert torch.equal(augmented, augment(image, context(), "critic.real"))
    never = CriticAugment(CriticAugmentConfig(policy=("flip", "cutout"), probability=0.0))
    assert torch.equal(never(image, context(), "critic.real"), image)


def test_adaptive_changes_grow_while_the_critic_knows_real_images_by_heart_and_shrink_again() -> None:
    config = CriticAugmentConfig(policy=("flip",), probability="adaptive", target=0.6, adapt_moves=10)
    augment = CriticAugment(config)
    for _ in range(4):
        augment.adapt(torch.tensor(0.9))
    assert float(augment.probability) == pytest.approx(0.4)
    augment.adapt(torch.tensor(0.1))
    assert float(augment.probability) == pytest.approx(0.3)
    for _ in range(40):
        augment.adapt(torch.tensor(0.9))
    assert float(augment.probability) == 1


def test_a_critic_that_explodes_stops_the_run_with_its_batch() -> None:
    running = play(recipe(), 2)
    with torch.no_grad():
        running.objective.adversary.head.weight.fill_(1e30)
    with pytest.raises(Diverged) as caught:
        running.step()
    assert caught.value.turn == "critic"
    assert caught.value.batch.image.shape == (B, 1, 8, 8)


def test_one_player_told_the_label_and_the_other_not_is_refused() -> None:
    with pytest.raises(ModelError, match="both be conditioned on the label"):
        trainer(recipe(**{"model.condition": "concat"}))


@pytest.mark.parametrize("name", ["relativistic", "packed", "changed", "conditional"])
def test_looking_does_not_change_training(name: str) -> None:
    found = recipe(**VARIANTS[name])
    plain, sampled = trainer(found), trainer(found)
    for _ in range(4):
        plain.step()
        sampled.step()
        sampled.model.sample(7, generator=torch.Generator().manual_seed(1))
    for key, value in plain.objective.state_dict().items():
        assert torch.equal(value, sampled.objective.state_dict()[key])
