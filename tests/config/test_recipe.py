from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import Field

from ectype.config.recipe import Recipe, _apply, differences, load_recipe
from ectype.config.schema import Section, parse_count
from ectype.core.errors import RecipeError


@pytest.mark.parametrize(
    "key, value, path, expected",
    [
        ("latent_dim", "8", "model.net.latent_dim", 8),
        ("optimizer.lr", "2e-3", "optimizer.lr", 0.002),
        ("lr", "1e-4", "optimizer.lr", 0.0001),
        ("train.images", "2M", "train.images", 2_000_000),
        ("size", "[32, 48]", "data.size", [32, 48]),
        ("size", "auto", "data.size", "auto"),
        ("split", "contiguous", "data.split.by", "contiguous"),
        ("likelihood", "bce", "model.likelihood.kind", "bce"),
        ("corruption", "{kind: gaussian, sigma: 0.3}", "model.corruption.sigma", 0.3),
        ("patience", "null", "monitor.patience", None),
        ("monitor.every", "epoch", "monitor.every", "epoch"),
        ("monitor.every", "50k", "monitor.every", 50_000),
        ("optimizer.players.model", "{lr: 0.5}", "optimizer.players.model.lr", 0.5),
    ],
)
def test_override(key: str, value: str, path: str, expected: object) -> None:
    node = load_recipe("vae", [f"{key}={value}"]).plain()
    for part in path.split("."):
        node = node[part]
    assert node == expected


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["latent_dims=8"], ["latent_dims", "did you mean 'latent_dim'?"]),
        (["images=5"], ["matches several keys", "train.images", "monitor.images"]),
        (["resize=stretch"], ["data.resize", "'stretch'", "'crop', 'pad', 'squash' or 'tiles'"]),
        (["likelihood=bcee"], ["bcee", "did you mean 'bce'?"]),
        (["lr=fast"], ["optimizer.lr", "'fast'", "must be a number."]),
        (["lr=-1"], ["optimizer.lr", "-1", "must be above 0."]),
        (["size=big"], ["data.size='big': must be 'auto' or 'own', a whole number or a list in brackets."]),
        (["size=[16]"], ["data.size=[16]: must be 'auto' or 'own', a whole number or a longer list."]),
        (["size=[4, 4, 4]"], ["'auto' or 'own', a whole number or a list of at most 2."]),
        (["size=[16, abc]"], ["data.size.1='abc': must be a whole number."]),
        (["channels_last=foo"], ["train.channels_last='foo': must be true or false or 'auto'."]),
        (["betas=[0.9]"], ["optimizer.betas=[0.9]: must be a longer list."]),
        (["size=2"], ["data.size=2: must be at least 4."]),
        (["resize=crp"], ["did you mean 'crop'?"]),
        (["split=0.2"], ["data.split=0.2: must be keys with values"]),
        (["size=[2, 8]"], ["data.size.0=2: must be at least 4."]),
        (["lr"], ["'lr' is not an override", "key=value"]),
        (["net={kind: conv, widht: 3}"], ["widht"]),
        (["model.kind=[1, 2]"], ["no model of kind [1, 2]; choose from:"]),
        (["optimizer.name=adamx"], ["'adamx'", "did you mean 'adam"]),
    ],
)
def test_a_wrong_override_is_one_line_that_helps(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("vae", overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_a_mistyped_preset_gets_the_closest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'ae-conv'"):
        load_recipe("ae-konv")


def test_an_unknown_section_is_refused(tmp_path) -> None:
    plain = load_recipe("vae").plain()
    with pytest.raises(RecipeError, match="extra"):
        load_recipe({**plain, "extra": 1})
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(str(broken))


def test_an_override_within_a_kind_keeps_the_rest_and_a_new_kind_starts_afresh() -> None:
    recipe = load_recipe("vae", {"net": {"width": 8}})
    assert (recipe.model.net.kind, recipe.model.net.width) == ("pca_conv", 8)
    assert load_recipe("vae", {"net": "mlp"}).model.net.hidden == (512,)
    changed = load_recipe("ae", ["net=conv", "latent_dim=8", "bottom=2"]).model.net
    assert (changed.kind, changed.latent_dim, changed.bottom, changed.shortcut) == ("conv", 8, 2, False)


def test_a_loss_by_its_name_is_one_alone() -> None:
    for words in (["loss=ssim"], ["loss={ssim: 1}"]):
        assert load_recipe("ae", words).plain()["objective"]["loss"] == {"ssim": 1.0}
    with pytest.raises(RecipeError, match=r"objective\.loss\.ssim='much': must be a number"):
        load_recipe("ae", ["loss={ssim: much}"])


def test_of_keys_that_end_alike_the_shortest_is_meant() -> None:
    class Inner(Section):
        loss: str = "hinge"
        every: int = 1

    class Outer(Section):
        loss: dict[str, float] = Field(default={"mse": 1.0, "l1": 0.5})
        adversary: Inner = Inner()
        every: int = 1

    class Whole(Section):
        objective: Outer = Outer()
        monitor: Inner = Inner()

    assert _apply(Outer(), {"loss": "{ssim: 1}"})["loss"] == {"ssim": 1}  # a free mapping is replaced
    found = _apply(Whole(), {"adversary.loss": "relativistic", "adversary": "{every: 3}"})
    assert found["objective"]["adversary"] == {"loss": "relativistic", "every": 3}
    with pytest.raises(RecipeError, match=r"'every' matches several keys: .*objective\.every, monitor\.every"):
        _apply(Whole(), {"every": "3"})


def test_differences_name_keys_and_leave_mechanics_out() -> None:
    one = load_recipe("vae")
    two = one.override({"run.device": "cpu", "run.keep_last": 5, "about.summary": "other"})
    assert differences(one, two) == {}
    three = one.override({"lr": 0.5, "bottleneck": "identity", "objective": "reconstruction"})
    assert differences(one, three)["optimizer.lr"] == (0.002, 0.5)
    assert {"model.bottleneck.kind", "objective.kind"} <= set(differences(one, three))


@pytest.mark.parametrize("text, value", [("2M", 2_000_000), ("500k", 500_000), ("1_000", 1000), ("1.5k", 1500)])
def test_count(text: str, value: int) -> None:
    assert parse_count(text) == value


def test_count_leaves_what_it_cannot_read() -> None:
    assert parse_count("many") == "many"
    assert parse_count("0.3") == "0.3"


def test_recipes_are_immutable() -> None:
    recipe: Recipe = load_recipe("ae")
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.images = 3  # type: ignore[misc]


def test_listing_presets_does_not_import_torch() -> None:
    code = "import sys, ectype.cli, ectype.config.recipe as r; r.preset_table(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_budget_in_images_takes_the_place_of_one_in_minutes() -> None:
    timed = load_recipe("vae", ["minutes=10"])
    assert timed.train.minutes == 10
    assert timed.override({"train.images": "2M"}).train.minutes is None
    assert timed.override({"train.images": 500, "minutes": None}).train.images == 500
    assert timed.override({"latent_dim": 3}).train.minutes == 10
    with pytest.raises(RecipeError, match=r"two budgets, train.images=500 and train.minutes=3"):
        timed.override({"train.images": 500, "minutes": 3})
