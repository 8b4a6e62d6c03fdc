from __future__ import annotations

import pytest
import torch

from ectype.data.batch import Batch
from ectype.errors import ModelError, RecipeError
from ectype.models.base import Translates
from ectype.models.translator import Painter, Restorer, Segmenter, TranslatorConfig
from ectype.recipe import load_recipe
from ectype.sections import DataInfo, Target
from ectype.training.position import looking

MASKS = DataInfo(1, (20, 24), target=Target("masks", 1, ("ground", "cell"), (0.8, 0.2), ((0, 0, 0), (255, 0, 0))))
PICTURES = DataInfo(1, (20, 24), target=Target("images", 3))
PLAIN = DataInfo(3, (20, 24))
MOMENT = looking(PLAIN, 0, torch.device("cpu"))[1](0, 2)


def built(info: DataInfo, **keys):
    torch.manual_seed(0)
    return TranslatorConfig.model_validate({"net": {"kind": "unet", "width": 4}, **keys}).build(info).eval()


@pytest.mark.parametrize(
    "info, keys, kind, channels",
    [(MASKS, {}, Segmenter, 2), (PICTURES, {}, Painter, 3), (PLAIN, {"degrade": {"noise": 0.2}}, Restorer, 3)],
)
def test_what_it_makes_follows_from_what_images_come_with(info, keys, kind, channels) -> None:
    model = built(info, **keys)
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
    model = built(PLAIN, degrade={"noise": 0.2}, output="linear", residual=True)
    image = torch.rand(2, 3, 20, 24)
    with torch.no_grad():
        assert torch.equal(model.translate(image), image)


def test_a_restorer_is_shown_spoiled_images_and_wants_them_whole() -> None:
    model = built(PLAIN, degrade={"noise": 0.2})
    image = torch.rand(2, 3, 20, 24)
    given, wanted = model.pair(Batch(image), MOMENT)
    assert torch.equal(wanted, image)
    assert float((given - image).std()) == pytest.approx(0.2, rel=0.1)
    assert torch.equal(model.pair(Batch(image), MOMENT)[0], given)


def test_masks_are_painted_in_their_colours_and_ignored_pixels_grey() -> None:
    model = built(MASKS)
    painted = model.picture(torch.tensor([[[0, 1, 255]]]))
    assert painted[0, :, 0].T.tolist() == [[0, 0, 0], [1, 0, 0], [0.5, 0.5, 0.5]]
    chance = torch.tensor([0.2, 0.8]).view(1, 2, 1, 1)
    assert model.picture(chance)[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "info, keys, words",
    [
        (PLAIN, {}, "have nothing to be translated to: set data.pairs"),
        (MASKS, {"degrade": {"noise": 0.1}}, "degrade spoils images without partners"),
        (
            PICTURES._replace(channels=3, target=Target("images", 1)),
            {"residual": True, "output": "linear"},
            "the picture has 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(info: DataInfo, keys: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        built(info, **keys)


@pytest.mark.parametrize(
    "words, said",
    [
        (["model.degrade={nois: 0.1}"], "did you mean 'noise'"),
        (["output=sigmoid", "residual=true"], "set output=linear"),
    ],
)
def test_recipes_say_what_is_wrong(words: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as error:
        load_recipe("unet-denoise", words)
    assert "\n" not in str(error.value)


def test_no_partners_is_said_in_one_line() -> None:
    with pytest.raises(ModelError, match="no partners to learn from"):
        built(MASKS).pair(Batch(torch.rand(1, 1, 20, 24)), MOMENT)
