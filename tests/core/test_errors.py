"""Hints in error messages, and libraries that are missing."""

from __future__ import annotations

import doctest
import inspect
import sys

import pytest

from ectype.core import errors
from ectype.core.errors import DataError, EctypeError, ModelError, did_you_mean, similar_words
from ectype.core.optional import optional_import


@pytest.mark.parametrize(
    "word, options, hint",
    [
        ("latnet", ["latent", "lr"], "did you mean 'latent'?"),
        ("adamx", ["adam", "adamw", "sgd"], "did you mean 'adam' or 'adamw'?"),
        ("mnist", ["MNIST", "EMNIST", "CIFAR10"], "did you mean 'MNIST'?"),
        ("huber", ["mse", "l1", "l1"], "choose from: l1, mse."),
        ("huber", [], "there is nothing to choose from."),
        ("dinov2", ["vit_small_patch14_dinov2", "resnet18"], "did you mean 'vit_small_patch14_dinov2'?"),
    ],
)
def test_did_you_mean(word: str, options: list[str], hint: str) -> None:
    assert did_you_mean(word, options) == hint


@pytest.mark.parametrize("word", ["model118", "zzz", "", "model", "x" * 300])
def test_at_most_five_of_hundreds_are_named(word: str) -> None:
    hint = did_you_mean(word, (f"model{i}" for i in range(800)))
    assert 1 <= hint.count("model") <= 5
    assert len(similar_words(word, [f"model{i}" for i in range(800)])) <= 5


def test_the_docstring_shows_the_tree_of_errors() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert errors.__doc__ is not None
    for cls in classes:
        assert f"`{cls.__name__}`" in errors.__doc__
        if issubclass(cls, EctypeError) and cls is not EctypeError:
            assert f"`{cls.__name__}` ({cls.exit_code})" in errors.__doc__
    assert not doctest.testmod(errors).failed


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optional_import("json", "none", "nothing") is sys.modules["json"]
    monkeypatch.setitem(sys.modules, "some_lib", None)
    with pytest.raises(ModelError, match=r"^the picture needs some-lib: pip install 'ectype\[extra\]'\.$"):
        optional_import("some_lib.inner", "extra", "the picture")
    with pytest.raises(DataError, match=r"needs SomeLib: pip install 'ectype\[extra\]', or give a \.webp\.$"):
        optional_import("some_lib", "extra", "'a.mp4'", library="SomeLib", alternative="give a .webp", error=DataError)
