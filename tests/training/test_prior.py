"""A flow that is trained after an autoencoder within its budget, and that its samples are drawn from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import ectype
from ectype.core.errors import CheckpointError, Interrupted, ModelError
from ectype.data.loader import Loader
from ectype.export.graphs import sampler_of
from ectype.inference.sample import sample
from ectype.models.autoencoder import Autoencoder, QuantizedAutoencoder
from ectype.models.latent_space import LatentSpaceModel
from ectype.runs.load import open_data
from ectype.runs.run_dir import RunDir
from ectype.training import prior, session, tuning
from ectype.training.build import build_trainer
from ectype.training.prior import prior_dir, prior_overrides
from ectype.training.run import train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

RANDOM = {"model.net.pretrained": False, "model.net.tuning": "finetune"}
FAST = {"monitor.features": "pixels", "monitor.images": 100, "run.log_every": 1000, "run.device": "cpu"}


def recipe(**changes: object):
    return small("ae", **{**FAST, "train.images": 6400, "monitor.every": 3200, "train.prior": "flow", **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(recipe(), out=tmp_path_factory.mktemp("prior") / "run")


def loaded(run: RunDir) -> Autoencoder:
    model = ectype.load(run.path, device="cpu")
    assert isinstance(model, Autoencoder)
    return model


def test_samples_are_drawn_from_the_flow(run: RunDir) -> None:
    model, flow = loaded(run), ectype.load(prior_dir(run), device="cpu")
    assert isinstance(flow, LatentSpaceModel)
    assert model.density == "flow"
    assert set(model.densities) == {"normal", "gaussian", "gmm", "flow"}
    # The density draws latents, then labels, as the flow itself does, so that both are the same images.
    one, two = (each.sample(6, generator=torch.Generator().manual_seed(3)) for each in (model, flow))
    assert flow.conditional
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.equal(one, model.sample(6, generator=torch.Generator().manual_seed(3), density="normal"))
    narrow = model.densities["flow"].sample(6, truncation=0.1, generator=torch.Generator().manual_seed(3))
    assert narrow.shape == (6, *model.code_shape)
    assert "codes drawn from 'flow'" in sample(run.path, None, n=4, device="cpu").summary


def test_the_budget_is_shared(run: RunDir) -> None:
    inner = RunDir(prior_dir(run))
    assert inner.recipe.train.images == round(4 * 6400 * 0.35 / 0.65)
    assert inner.recipe.monitor.every == -(-inner.recipe.train.images // 20), "not found by timing"
    assert inner.state() == "finished"
    timed = recipe().override({"train.minutes": 10})
    assert prior_overrides(timed, 390)["train.minutes"] == pytest.approx(3.5)
    assert prior_overrides(timed, 120)["train.minutes"] == pytest.approx(8), "an early stop leaves more"


@pytest.mark.parametrize("budget", [{"train.images": 320}, {"train.minutes": 0.02}])
def test_a_small_budget_is_left_to_the_mixture(budget: dict, tmp_path: Path) -> None:
    short = train(recipe(**{"train.images": 320, "monitor.every": 320}).override(budget), out=tmp_path / "run")
    assert loaded(short).density == "gmm"
    assert not list(short.path.glob("flow-*"))


def test_a_flow_that_made_few_updates_is_not_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior, "MIN_FLOW_MINUTES", 0.0)
    monkeypatch.setattr(prior, "MIN_FLOW_UPDATES", 1_000_000)
    console = Console(record=True, width=500)
    slow = train(recipe().override({"train.minutes": 0.05}), out=tmp_path / "run", console=console)
    updates = RunDir(prior_dir(slow)).summary()["step"]
    assert 0 < updates < 1_000_000
    assert loaded(slow).density == "gmm"
    assert f"the flow made only {updates:,} updates" in console.export_text()


def test_minutes_of_the_autoencoder_leave_room_for_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []
    ticks = iter(float(i) for i in range(100_000))
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: next(ticks))
    for kind in ("none", "flow"):
        this = recipe().override({"train.prior": kind, "train.minutes": 10})
        _, store = open_data(this.data)
        loader = Loader(store.split("train"), this.data, torch.device("cpu"), training=True, seed=0)
        trainer = build_trainer(this, store.info, loader, budget=1000, device=torch.device("cpu"))
        budgets.append(tuning.tune_settings(trainer, None).budget)
    assert budgets[1] / budgets[0] == pytest.approx(0.65, rel=0.02)


def test_an_interrupted_flow_is_continued(run: RunDir, tmp_path: Path) -> None:
    cut = RunDir(shutil.copytree(run.path, tmp_path / "cut"))
    (cut.model / "density-flow.safetensors").unlink()
    inner = RunDir(prior_dir(cut))
    newest = sorted(inner.checkpoints.iterdir())
    for place in newest[1:]:
        shutil.rmtree(place)
    inner.summary_file.unlink()
    shutil.rmtree(inner.model)
    assert loaded(cut).density == "gmm"
    train(recipe(), out=cut.path)
    for name in ("model/density-flow.safetensors", f"{inner.path.name}/model/model.safetensors"):
        one, two = load_file(run.path / name), load_file(cut.path / name)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_signal_during_the_flow_is_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = session.fit
    calls: list[int] = []

    def stopped(*args, **how):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted("stopped: repeat the command with --resume to continue.")
        return real(*args, **how)

    monkeypatch.setattr(session, "fit", stopped)
    with pytest.raises(Interrupted):
        train(recipe(), out=tmp_path / "run")
    assert loaded(RunDir(tmp_path / "run")).density == "gmm"
    monkeypatch.setattr(session, "fit", real)
    train(recipe(), out=tmp_path / "run")
    assert loaded(RunDir(tmp_path / "run")).density == "flow"


@pytest.mark.parametrize("damage", ["no description", "another model", "a value", "another shape"])
def test_a_damaged_density_is_refused(run: RunDir, tmp_path: Path, damage: str) -> None:
    copy = RunDir(shutil.copytree(run.path, tmp_path / "run"))
    file = copy.model / "density-flow.safetensors"
    tensors = load_file(file)
    config = loaded(run).densities["flow"].description()["flow"]
    if damage == "another model":
        config = '{"kind": "autoencoder"}'
    elif damage == "a value":
        tensors["centre"] = tensors["centre"] * float("nan")
    elif damage == "another shape":
        config = config.replace('"width":', '"width": 1')
    save_file(tensors, file, metadata={} if damage == "no description" else {"flow": config})
    with pytest.raises(CheckpointError, match=r"is not a density on the codes|describes"):
        ectype.load(copy.path, device="cpu")


@pytest.mark.parametrize("name", ["vqvae", "rae"])
def test_codes_that_are_quantized_or_features_have_a_flow_too(name: str, tmp_path: Path) -> None:
    budget = {"train.images": 1600, "monitor.every": 1600, "train.prior": "flow", "train.prior_share": 0.5}
    net = {"model.bottleneck.codes": 32} if name == "vqvae" else {"model.net.encoder": "resnet18", **RANDOM}
    run = train(small(name, **{**FAST, **budget, **net}), out=tmp_path / "run")
    model = loaded(run)
    assert model.density == "flow"
    codes = model.sample_latents(64, generator=torch.Generator().manual_seed(0))
    images = model.sample(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, model.render(codes))
    if name == "vqvae":
        assert isinstance(model, QuantizedAutoencoder)
        assert not torch.equal(model.bottleneck.nearest(codes), codes), "the flow does not draw entries of the codebook"
        assert torch.equal(images, model.decode(model.bottleneck.nearest(codes)))
    assert "codes drawn from 'flow'" in sample(run.path, None, n=4, device="cpu").summary


def test_a_model_without_codes_has_no_prior(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"train\.prior=flow needs an autoencoder.*: set prior=none"):
        train(small("gan-mlp", **FAST, **{"train.images": 320, "train.prior": "flow"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # said before anything was trained


def test_a_sampler_for_export_takes_the_mixture(run: RunDir) -> None:
    sampler = sampler_of(loaded(run))
    assert sampler is not None
    assert sampler.density == "gmm"
    assert sampler.mixture is not None
