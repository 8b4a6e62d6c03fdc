"""Codes that are computed once, instead of whenever an image is shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ectype.config.schema import Augment
from ectype.core.random import SeededStepContext
from ectype.data.loader import Loader
from ectype.models.latent_space import LatentSpaceModel
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training import encoded
from ectype.training.build import build_trainer
from ectype.training.encoded import EncodedLoader, encode_once
from ectype.training.on_codes import recipe_on_codes
from ectype.training.run import train
from ectype.training.trainer import Trainer
from tests.conformance.small import small

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    recipe = small("vae", **{"train.images": 640, "train.prior": "none", "data.augment.shift": 0.1})
    return train(recipe, out=tmp_path_factory.mktemp("coder") / "run")


def trainer_of(coder: RunDir) -> tuple[Trainer, LatentSpaceModel, Loader]:
    recipe = recipe_on_codes(small("flow"), coder, {"train.images": 640, "train.batch": 32})
    _, store = open_data(recipe.data)
    loader = Loader(store.split("train"), recipe.data, torch.device("cpu"), training=True, seed=0)
    trainer = build_trainer(recipe, store.info, loader, budget=640, device=torch.device("cpu"))
    model = trainer.objective.model
    assert isinstance(model, LatentSpaceModel)
    model.load_pretrained_weights()
    return trainer, model, loader


def test_the_losses_are_those_of_encoding_each_time(coder: RunDir) -> None:
    losses = []
    for once in (False, True):
        trainer, model, loader = trainer_of(coder)
        if once:
            made = encode_once(model, loader)
            assert isinstance(made, EncodedLoader)
            trainer.loader = made
        for _ in range(4):
            trainer.step()
        losses.append(trainer.take_metrics()["total"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_flow_on_codes_gets_no_changed_images(coder: RunDir) -> None:
    assert coder.recipe.data.augment.shift == 0.1
    assert recipe_on_codes(small("flow"), coder, {}).data.augment == Augment()
    asked = recipe_on_codes(small("flow"), coder, {"data.augment.flip": True})
    assert asked.data.augment == Augment(flip=True)


@pytest.mark.parametrize("change", [{"augment": Augment(flip=True)}, {"binarise": "dynamic"}])
def test_images_that_change_are_encoded_anew(change: dict[str, Any], coder: RunDir) -> None:
    _, model, loader = trainer_of(coder)
    config = loader.config.model_copy(update=change)
    changing = Loader(loader.images, config, loader.device, training=True)
    assert encode_once(model, changing) is None


@pytest.mark.parametrize("values", [1, 2], ids=["code", "posterior"])
def test_codes_that_are_too_large_are_not_kept(values: int, coder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, loader = trainer_of(coder)
    if values == 1:
        monkeypatch.setattr(model, "encode_posterior", lambda image: model.encode(image)[:, None])
    needed = 4 * values * len(loader) * math.prod(model.code_shape)
    monkeypatch.setattr(encoded, "MAX_BYTES", needed - 1)
    assert encode_once(model, loader) is None
    monkeypatch.setattr(encoded, "MAX_BYTES", needed)
    made = encode_once(model, loader)
    assert made is not None
    assert made.codes.nbytes == needed
    last = loader.images.batch(torch.tensor([len(loader) - 1])).image
    assert torch.allclose(made.codes[-1], model.encode_posterior(last)[0], atol=1e-5)


def test_codes_are_drawn_anew_from_their_posteriors(coder: RunDir) -> None:
    _, model, loader = trainer_of(coder)
    made = encode_once(model, loader)
    assert made is not None
    contexts = [SeededStepContext(0, seen, seen, batch=8) for seen in (0, 8)]
    batch = made(torch.arange(8), contexts[0])
    assert batch.code is not None
    assert batch.image.numel() == 0
    one, two = (model.normalized_codes(batch.code, context) for context in contexts)
    assert not torch.equal(one, two)
    assert batch.label is not None
    assert torch.equal(batch.label, loader(torch.arange(8), contexts[0]).label)


def test_a_run_is_resumed_bit_equal(coder: RunDir, tmp_path: Path) -> None:
    flow = recipe_on_codes(small("flow"), coder, {"train.images": 1920, "monitor.every": 640})
    whole = train(flow, out=tmp_path / "whole")
    cut = train(flow, out=tmp_path / "cut")
    newest = sorted(cut.checkpoints.iterdir())[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    cut.summary_file.unlink()
    train(flow, out=tmp_path / "cut")
    files = [(run.model / "model.safetensors").read_bytes() for run in (whole, cut)]
    assert files[0] == files[1]
