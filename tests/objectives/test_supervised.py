from __future__ import annotations

import pytest
import torch

from ectype.data.batch import Batch
from ectype.errors import ModelError, RecipeError
from ectype.losses.segmentation import cross_entropy, dice
from ectype.models.autoencoder import AutoencoderConfig
from ectype.models.translator import TranslatorConfig
from ectype.objectives.supervised import Supervised, SupervisedConfig
from ectype.sections import DataInfo, Target
from ectype.training.position import looking

MASKS = DataInfo(1, (20, 24), target=Target("masks", 1, ("ground", "cell", "wall"), (0.8, 0.16, 0.04), ((0,) * 3,) * 3))
PICTURES = DataInfo(1, (20, 24), target=Target("images", 3))
MOMENT = looking(MASKS, 0, torch.device("cpu"))[1](0, 4)
IMAGE = torch.rand(4, 1, 20, 24)
MASK = torch.randint(0, 3, (4, 20, 24))


def objective(info: DataInfo, model: dict | None = None, **keys) -> Supervised:
    torch.manual_seed(0)
    net = {"kind": "unet", "width": 4, "norm": "group", "levels": 3}
    built = TranslatorConfig.model_validate({"net": net, **(model or {})}).build(info)
    return SupervisedConfig.model_validate(keys).build(built, info, images=1000)


def test_masks_are_learned_by_both_losses_and_pictures_by_l1() -> None:
    game = objective(MASKS)
    found = game.score(Batch(IMAGE, None, MASK), MOMENT)
    scores = game.model.net(IMAGE)
    assert {name: weight for name, (weight, _) in found.terms.items()} == {"cross_entropy": 1, "dice": 1}
    torch.testing.assert_close(found.terms["cross_entropy"][1], cross_entropy(scores, MASK).mean())
    torch.testing.assert_close(found.terms["dice"][1], dice(scores, MASK).mean())
    target = torch.rand(4, 3, 20, 24)
    game = objective(PICTURES)
    found = game.score(Batch(IMAGE, None, target), MOMENT)
    torch.testing.assert_close(found.terms["l1"][1], (game.model.paint(IMAGE) - target).abs().mean())


def test_rare_classes_can_weigh_more() -> None:
    game = objective(MASKS, class_weights="balanced")
    assert game.weights is not None
    assert float(game.weights.mean()) == pytest.approx(1)
    assert game.weights.tolist() == sorted(game.weights.tolist())
    assert float(game.weights[2] / game.weights[0]) == pytest.approx((0.8 / 0.04) ** 0.5)
    given = objective(MASKS, class_weights=(1, 2, 3), loss={"cross_entropy": 2})
    term = given.score(Batch(IMAGE, None, MASK), MOMENT).terms["cross_entropy"]
    expected = cross_entropy(given.model.net(IMAGE), MASK, torch.tensor([1.0, 2, 3])).mean()
    assert term[0] == 2
    torch.testing.assert_close(term[1], expected)


@pytest.mark.parametrize("info", [MASKS, PICTURES], ids=["masks", "pictures"])
def test_lower_levels_learn_too_where_that_is_wanted(info: DataInfo) -> None:
    target = MASK if info is MASKS else torch.rand(4, 3, 20, 24)
    game = objective(info, {"deep": True}, deep=0.5)
    batch = Batch(IMAGE, None, target)
    game.score(batch, MOMENT).total().backward()
    assert all(head.weight.grad is not None and head.weight.grad.any() for head in game.model.net.decoder.heads)
    # On held-out images the whole output alone is judged.
    held = game.validate(game.model, batch, MOMENT).total()
    plain = game.terms(game.model, IMAGE, target)[0].total()
    assert torch.equal(held, plain)


@pytest.mark.parametrize("info", [MASKS, PICTURES], ids=["masks", "pictures"])
def test_a_net_that_is_right_everywhere_has_nothing_to_learn_at_any_level(info: DataInfo) -> None:
    flat = torch.ones(4, 20, 24, dtype=torch.long) if info is MASKS else torch.full((4, 3, 20, 24), 0.5)
    game = objective(info, {"deep": True, "output": "linear"}, deep=0.5)
    for head in game.model.net.decoder.heads:
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([0.0, 50, 0]) if info is MASKS else torch.full((3,), 0.5)
    assert game.score(Batch(IMAGE, None, flat), MOMENT).total() < 1e-4


def test_a_critic_sees_input_and_output_together() -> None:
    adversary = {"weight": 1.0, "starts": 0, "warmup": 0, "critic": {"kind": "patch", "width": 8, "levels": 1}}
    game = objective(PICTURES, adversary=adversary)
    batch = Batch(IMAGE, None, torch.rand(4, 3, 20, 24))
    assert [turn.player for turn in game.turns] == ["model", "critic"]
    assert game.critic is not None
    first = next(p for p in game.critic.adversary.critic.parameters())
    assert first.shape[1] == 4
    game.critic.rehearse()
    found = game.score(batch, MOMENT)
    assert "adversarial" in found.terms
    found.total().backward()
    assert game.model.last_layer.grad is not None
    game.turns[1].score(batch, MOMENT).total().backward()
    assert first.grad is not None
    # Another input for the same output is another question.
    one = game.critic.adversary.judge(torch.cat([IMAGE, batch.target], 1) * 2 - 1, None, MOMENT, ("real",))
    two = game.critic.adversary.judge(torch.cat([1 - IMAGE, batch.target], 1) * 2 - 1, None, MOMENT, ("real",))
    assert not torch.allclose(one, two)
    assert game.phase == "judged"


def test_a_restorer_learns_from_the_same_spoiled_image_at_the_same_moment() -> None:
    info = DataInfo(1, (20, 24))
    game = objective(info, {"degrade": {"noise": 0.3}})
    one = game.score(Batch(IMAGE), MOMENT).total()
    assert torch.equal(one, game.score(Batch(IMAGE), MOMENT).total())


@pytest.mark.parametrize(
    "info, model, keys, error, words",
    [
        (MASKS, {}, {"loss": {"dise": 1}}, RecipeError, "no loss 'dise' of masks; did you mean 'dice'"),
        (MASKS, {}, {"class_weights": (1, 2)}, ModelError, "has 2 numbers for 3 classes"),
        (MASKS, {}, {"adversary": {"weight": 1}}, ModelError, "a critic judges pictures, not masks"),
        (MASKS, {}, {"deep": 0.5}, ModelError, "set both, or neither"),
        (MASKS, {"deep": True}, {}, ModelError, "set both, or neither"),
    ],
)
def test_what_cannot_be_is_refused(info, model, keys, error, words) -> None:
    with pytest.raises(error, match=words):
        objective(info, model, **keys)


def test_it_trains_networks_from_image_to_image_only() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "mlp"}}).build(MASKS)
    with pytest.raises(ModelError, match="choose model=translator"):
        SupervisedConfig().build(model, MASKS, images=10)
