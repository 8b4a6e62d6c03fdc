from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from ectype.config.recipe import load_recipe
from ectype.config.yaml_text import parse_yaml, read_yaml
from ectype.core.errors import RecipeError

LAUGHS = (
    "["
    + ", ".join(["&a0 [1, 1, 1, 1, 1, 1, 1, 1]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))])
    + "]"
)


@pytest.mark.parametrize(
    "text, reason",
    [
        (LAUGHS, "anchors and aliases"),
        ("{a: &x [1], b: *x}", "anchors and aliases"),
        ("[" * 500, "nested more than 32 deep"),
        ("{a: " * 500, "nested more than 32 deep"),
        ("[" + "1, " * 150_000 + "1]", "more than 100,000 values"),
        ("[" + "1, " * 1_000_000 + "1]", "a text of 3,000,003 characters"),
    ],
)
def test_exhausting_texts_are_refused_at_once(text: str, reason: str, tmp_path: Path) -> None:
    before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecipeError, match=reason):
        parse_yaml(text)
    with pytest.raises(RecipeError, match=reason):
        load_recipe("vae", [f"net={text}"])
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml' is refused: "):
        load_recipe(str(file))
    assert time.process_time() - before < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200 * 1024


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("train:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(RecipeError, match="the key 'seed' occurs twice"):
        load_recipe(str(file))
    with pytest.raises(RecipeError, match="the key 'kind' occurs twice"):
        load_recipe("vae", ["net={kind: conv, kind: mlp}"])
    with pytest.raises(RecipeError, match="'lr' is set 2 times: leave all but one out"):
        load_recipe("vae", ["lr=1e-3", "beta=1", "lr=1e-4"])


@pytest.mark.parametrize("value", ["2001-99-99", "9" * 5000, "*.png", "&", "!!python/name:os.system x", "a: b: c"])
def test_what_is_not_yaml_is_a_word(value: str) -> None:
    assert load_recipe("vae", [f"summary={value}"]).about.summary == value


@pytest.mark.parametrize("text", ["x: 2001-99-99", "x: " + "9" * 5000, "x: [", "x: *y", "\0"])
def test_a_file_that_is_not_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file))
    assert "\n" not in str(caught.value)


def test_only_regular_files_are_read() -> None:
    with pytest.raises(RecipeError, match="'/dev/zero' is refused: it is not a file"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("value", ["１２８", "²", "٣", "nan", "inf", "-inf", "1e400", "9" * 400])
def test_digits_of_other_scripts_and_infinite_numbers_are_refused(value: str) -> None:
    for key in ("latent_dim", "train.images", "lr"):
        with pytest.raises(RecipeError) as caught:
            load_recipe("vae", [f"{key}={value}"])
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("loss", ["{l1: -1}", "{l1: .nan}", "{l1: 1e300}"])
def test_weights_of_losses_are_bounded(loss: str) -> None:
    with pytest.raises(RecipeError, match="loss"):
        load_recipe("ae", [f"loss={loss}"])
