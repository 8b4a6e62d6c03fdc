from __future__ import annotations

import pytest
import torch

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo, Target
from ectype.core.errors import ModelError, RecipeError
from ectype.data.batch import Batch
from ectype.data.loader import evaluation_batches
from ectype.models.base import Translates
from ectype.models.translator import ImageTranslator, Restorer, Segmenter, TranslatorConfig

MASKS = DataInfo(1, (20, 24), target=Target("masks", 1, ("ground", "cell"), (0.8, 0.2), ((0, 0, 0), (255, 0, 0))))
PICTURES = DataInfo(1, (20, 24), target=Target("images", 3))
PLAIN = DataInfo(3, (20, 24))
MOMENT = evaluation_batches(PLAIN, 0, torch.device("cpu"))[1](0, 2)


def build(info: DataInfo, **keys):
    torch.manual_seed(0)
    return TranslatorConfig.model_validate({"net": {"kind": "unet", "width": 4}, **keys}).build(info).eval()


@pytest.mark.parametrize(
    "info, keys, kind, channels",
    [(MASKS, {}, Segmenter, 2), (PICTURES, {}, ImageTranslator, 3), (PLAIN, {"degrade": {"noise": 0.2}}, Restorer, 3)],
)
def test_what_it_makes_follows_from_what_images_come_with(info, keys, kind, channels) -> None:
    model = build(info, **keys)
    assert type(model) is kind
    assert isinstance(model, Translates)
    for size in ((20, 24), (31, 31), (97, 50)):
        with torch.no_grad():
            found = model.translate(torch.rand(2, info.channels, *size))
        assert found.shape == (2, channels, *size)
        assert found.min() >= 0
        assert found.max() <= 1
        if kind is Segmenter:
            torch.testing.assert_close(found.sum(1), torch.ones(2, *size))


def test_a_fresh_residual_net_leaves_the_image_as_it_is() -> None:
    model = build(PLAIN, degrade={"noise": 0.2}, output="linear", residual=True)
    image = torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        assert torch.equal(model.translate(image), image)


@pytest.mark.parametrize("output", ["linear", "sigmoid"])
def test_a_fresh_net_can_return_the_mean_color_of_the_targets(output: str) -> None:
    model = build(PICTURES, output=output, start_at_mean=True)
    pairs = torch.rand(5, 1 + 3, 20, 24) * torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None]
    before = model.translate(torch.rand(2, 1, 20, 24))
    model.initialize_from_data(pairs.mean(0), lambda: pairs)
    with torch.no_grad():
        found = model.translate(torch.rand(2, 1, 20, 24))
    torch.testing.assert_close(found, pairs[:, 1:].mean((0, 2, 3))[:, None, None].expand_as(found))
    assert before.std() > 0
    kept = build(PICTURES, output=output)
    weights = {key: value.clone() for key, value in kept.state_dict().items()}
    kept.initialize_from_data(pairs.mean(0), lambda: pairs)
    assert all(torch.equal(value, weights[key]) for key, value in kept.state_dict().items())


def test_a_restorer_is_shown_spoiled_images_and_wants_them_whole() -> None:
    model = build(PLAIN, degrade={"noise": 0.2})
    image = torch.rand(2, 3, 20, 24)
    inputs, target = model.input_and_target(Batch(image), MOMENT)
    assert torch.equal(target, image)
    assert float((inputs - image).std()) == pytest.approx(0.2, rel=0.1)
    assert torch.equal(model.input_and_target(Batch(image), MOMENT)[0], inputs)


def test_masks_are_rgb_in_their_colours_and_ignored_pixels_grey() -> None:
    model = build(MASKS)
    rgb = model.to_rgb(torch.tensor([[[0, 1, 255]]]))
    assert rgb[0, :, 0].T.tolist() == [[0, 0, 0], [1, 0, 0], [0.5, 0.5, 0.5]]
    probabilities = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1)
    assert model.to_rgb(probabilities)[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "info, keys, message",
    [
        (PLAIN, {}, "have no targets to be translated to: set data.pairs"),
        (MASKS, {"degrade": {"noise": 0.1}}, "degrade is for images without targets"),
        (
            PICTURES._replace(channels=3, target=Target("images", 1)),
            {"residual": True, "output": "linear"},
            "the output's 1 channels",
        ),
    ],
)
def test_what_cannot_be_is_refused(info: DataInfo, keys: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(info, **keys)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.degrade={nois: 0.1}"], "did you mean 'noise'"),
        (["output=sigmoid", "residual=true"], "set output=linear"),
        (["output=linear", "residual=true", "model.start_at_mean=true"], "set start_at_mean=false"),
    ],
)
def test_recipes_say_what_is_wrong(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe("unet-denoise", overrides)
    assert "\n" not in str(error.value)


def test_no_partners_is_said_in_one_line() -> None:
    with pytest.raises(ModelError, match="no targets to learn from"):
        build(MASKS).input_and_target(Batch(torch.rand(1, 1, 20, 24)), MOMENT)
