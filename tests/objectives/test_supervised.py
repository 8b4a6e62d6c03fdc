from __future__ import annotations

import pytest
import torch

from ectype.config.schema import DataInfo, Target
from ectype.core.errors import ModelError, RecipeError
from ectype.data.batch import Batch
from ectype.data.loader import evaluation_batches
from ectype.losses.segmentation import cross_entropy, dice
from ectype.models.autoencoder import AutoencoderConfig
from ectype.models.translator import TranslatorConfig
from ectype.objectives.supervised import Supervised, SupervisedConfig

MASKS = DataInfo(1, (20, 24), target=Target("masks", 1, ("ground", "cell", "wall"), (0.8, 0.16, 0.04), ((0,) * 3,) * 3))
PICTURES = DataInfo(1, (20, 24), target=Target("images", 3))
MOMENT = evaluation_batches(MASKS, 0, torch.device("cpu"))[1](0, 4)
IMAGE = torch.rand(4, 1, 20, 24)
MASK = torch.randint(0, 3, (4, 20, 24))


def objective(info: DataInfo, model: dict | None = None, **keys) -> Supervised:
    torch.manual_seed(0)
    net = {"kind": "unet", "width": 4, "norm": "group", "levels": 3}
    built = TranslatorConfig.model_validate({"net": net, **(model or {})}).build(info)
    return SupervisedConfig.model_validate(keys).build(built, info, images=1000)


def test_masks_are_learned_by_both_losses_and_pictures_by_l1() -> None:
    supervised = objective(MASKS)
    found = supervised.score(Batch(IMAGE, None, MASK), MOMENT)
    scores = supervised.model.net(IMAGE)
    assert {name: weight for name, (weight, _) in found.terms.items()} == {"cross_entropy": 1, "dice": 1}
    torch.testing.assert_close(found.terms["cross_entropy"][1], cross_entropy(scores, MASK).mean())
    torch.testing.assert_close(found.terms["dice"][1], dice(scores, MASK).mean())
    target = torch.rand(4, 3, 20, 24)
    supervised = objective(PICTURES)
    found = supervised.score(Batch(IMAGE, None, target), MOMENT)
    torch.testing.assert_close(
        found.terms["l1"][1], (supervised.model.translate_unclamped(IMAGE) - target).abs().mean()
    )


def test_rare_classes_can_weigh_more() -> None:
    supervised = objective(MASKS, class_weights="balanced")
    assert supervised.weights is not None
    assert float(supervised.weights.mean()) == pytest.approx(1)
    assert supervised.weights.tolist() == sorted(supervised.weights.tolist())
    assert float(supervised.weights[2] / supervised.weights[0]) == pytest.approx((0.8 / 0.04) ** 0.5)
    weighted = objective(MASKS, class_weights=(1, 2, 3), loss={"cross_entropy": 2})
    term = weighted.score(Batch(IMAGE, None, MASK), MOMENT).terms["cross_entropy"]
    expected = cross_entropy(weighted.model.net(IMAGE), MASK, torch.tensor([1.0, 2, 3])).mean()
    assert term[0] == 2
    torch.testing.assert_close(term[1], expected)


@pytest.mark.parametrize("info", [MASKS, PICTURES], ids=["masks", "pictures"])
def test_lower_levels_learn_too_where_that_is_wanted(info: DataInfo) -> None:
    target = MASK if info is MASKS else torch.rand(4, 3, 20, 24)
    supervised = objective(info, {"deep": True}, deep=0.5)
    batch = Batch(IMAGE, None, target)
    supervised.score(batch, MOMENT).total().backward()
    assert all(head.weight.grad is not None and head.weight.grad.any() for head in supervised.model.net.decoder.heads)
    # Validation uses the full-size output only.
    validated = supervised.validate(supervised.model, batch, MOMENT).total()
    plain = supervised.loss_terms(supervised.model, IMAGE, target)[0].total()
    assert torch.equal(validated, plain)


@pytest.mark.parametrize("info", [MASKS, PICTURES], ids=["masks", "pictures"])
def test_a_net_that_is_right_everywhere_has_nothing_to_learn_at_any_level(info: DataInfo) -> None:
    flat = torch.ones(4, 20, 24, dtype=torch.long) if info is MASKS else torch.full((4, 3, 20, 24), 0.5)
    supervised = objective(info, {"deep": True, "output": "linear"}, deep=0.5)
    for head in supervised.model.net.decoder.heads:
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor([0.0, 50, 0]) if info is MASKS else torch.full((3,), 0.5)
    assert supervised.score(Batch(IMAGE, None, flat), MOMENT).total() < 1e-4


def test_a_critic_sees_input_and_output_together() -> None:
    adversary = {"weight": 1.0, "starts": 0, "warmup": 0, "critic": {"kind": "patch", "width": 8, "levels": 1}}
    supervised = objective(PICTURES, adversary=adversary)
    batch = Batch(IMAGE, None, torch.rand(4, 3, 20, 24))
    assert [turn.player for turn in supervised.turns] == ["model", "critic"]
    assert supervised.critic is not None
    first = next(p for p in supervised.critic.adversary.critic.parameters())
    assert first.shape[1] == 4
    supervised.critic.activate()
    found = supervised.score(batch, MOMENT)
    assert "adversarial" in found.terms
    found.total().backward()
    assert supervised.model.last_layer.grad is not None
    supervised.turns[1].score(batch, MOMENT).total().backward()
    assert first.grad is not None
    # The score depends on the input, not only on the output.
    one = supervised.critic.adversary.score(torch.cat([IMAGE, batch.target], 1) * 2 - 1, None, MOMENT, ("real",))
    two = supervised.critic.adversary.score(torch.cat([1 - IMAGE, batch.target], 1) * 2 - 1, None, MOMENT, ("real",))
    assert not torch.allclose(one, two)
    assert supervised.critic_phase == "judged"


def test_a_restorer_learns_from_the_same_spoiled_image_at_the_same_moment() -> None:
    info = DataInfo(1, (20, 24))
    supervised = objective(info, {"degrade": {"noise": 0.3}})
    one = supervised.score(Batch(IMAGE), MOMENT).total()
    assert torch.equal(one, supervised.score(Batch(IMAGE), MOMENT).total())


@pytest.mark.parametrize(
    "info, model, keys, error, message",
    [
        (MASKS, {}, {"loss": {"dise": 1}}, RecipeError, "no loss 'dise' of masks; did you mean 'dice'"),
        (MASKS, {}, {"class_weights": (1, 2)}, ModelError, "has 2 values for 3 classes"),
        (MASKS, {}, {"adversary": {"weight": 1}}, ModelError, "a critic scores images, not masks"),
        (MASKS, {}, {"deep": 0.5}, ModelError, "set both, or neither"),
        (MASKS, {"deep": True}, {}, ModelError, "set both, or neither"),
    ],
)
def test_what_cannot_be_is_refused(info, model, keys, error, message) -> None:
    with pytest.raises(error, match=message):
        objective(info, model, **keys)


def test_it_trains_networks_from_image_to_image_only() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "mlp"}}).build(MASKS)
    with pytest.raises(ModelError, match="choose model=translator"):
        SupervisedConfig().build(model, MASKS, images=10)
