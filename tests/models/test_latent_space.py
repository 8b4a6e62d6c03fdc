"""Generative models of a frozen coder's codes: trained, evaluated and saved as one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import ectype
from ectype.analysis.diagnose import check
from ectype.analysis.open_view import open_view
from ectype.analysis.results import evaluate
from ectype.cli import app
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.inference.sample import AS_TRAINED, SamplingOptions, sample
from ectype.models.base import Encodes, Reconstructs, Samples, UsesFrozenCoder, is_trained_to_encode, own_modules
from ectype.models.latent_space import LatentSpaceConfig, LatentSpaceModel
from ectype.objectives.latent_space import LatentSpaceObjective
from ectype.runs import checkpoint
from ectype.runs.run_dir import RunDir
from ectype.training.run import resolve, train
from tests.conformance.small import small

pytestmark = pytest.mark.trains

FAST = {"train.images": 960, "monitor.every": 320, "run.pictures": 4, "run.log_every": 1000, "monitor.images": 100}
FAST |= {"monitor.features": "pixels"}
FLOW = {
    **FAST,
    "train.images": 6400,
    "monitor.every": 3200,
    "optimizer.lr": 3e-3,
    "model.inner.net.width": 32,
    "train.batch": 32,
    "train.ema_images": 100,
    "monitor.patience": None,
    "run.device": "cpu",
}


def flow_info(run: RunDir) -> DataInfo:
    return ectype.load(run.path).info


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(small("vae-mlp", **FAST), out=tmp_path_factory.mktemp("codes") / "coder")


@pytest.fixture(scope="module")
def flow(coder: RunDir, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train("flow", coder.path, FLOW, out=tmp_path_factory.mktemp("codes") / "flow")


def test_a_run_is_what_a_flow_is_trained_on(coder: RunDir, flow: RunDir) -> None:
    recipe, coder_recipe = flow.recipe, coder.recipe
    assert isinstance(recipe.model, LatentSpaceConfig)
    assert recipe.model.coder.model == coder_recipe.model
    assert recipe.model.coder.run == str(coder.path.resolve())
    assert recipe.model.inner.net.kind == "mlp"  # the code is a vector
    assert recipe.data == coder_recipe.data.model_copy(update={"size": (16, 16), "channels": 1})
    # Overrides given after the run apply.
    assert resolve("flow", coder.path, ["guidance=2", "data.augment.flip=true"]).data.augment.flip


def test_the_coder_stays_as_it_was(coder: RunDir, flow: RunDir) -> None:
    model, own = ectype.load(flow.path), ectype.load(coder.path)
    assert isinstance(model, LatentSpaceModel)
    for key, value in own.state_dict().items():
        assert torch.equal(model.coder.state_dict()[key], value), key
    assert not any(parameter.requires_grad for parameter in model.coder.parameters())
    model.train()
    assert not any(part.training for part in model.coder.modules())
    assert model.inner.training
    held = checkpoint.load_tensors(checkpoint.latest(flow.checkpoints) / "optimizer-model.safetensors")
    # The optimizer holds the inner model and nothing else.
    inner = sum(p.numel() for p in model.inner.parameters())
    assert sum(t.numel() for key, t in held.items() if key.endswith("exp_avg_sq")) == inner


def test_it_is_shipped_whole_and_needs_no_other_run(flow: RunDir, tmp_path: Path) -> None:
    place = tmp_path / "moved"
    place.mkdir()
    for file in flow.model.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    one, two = ectype.load(flow.path), ectype.load(place)
    draws = [model.sample(3, generator=torch.Generator().manual_seed(1)) for model in (one, two)]
    assert torch.equal(*draws)
    # The path of the coder's run is not stored.
    assert str(flow.path.parent.parent) not in (place / "config.json").read_text()
    assert draws[0].shape == (3, 1, 16, 16)


def test_codes_come_to_lie_between_0_and_1_and_back(coder: RunDir, flow: RunDir) -> None:
    model = ectype.load(flow.path)
    assert isinstance(model, LatentSpaceModel)
    _, store = ectype.runs.load.open_data(flow.recipe.data)
    image = store.split("train").batch(torch.arange(400)).image
    normalized = model.normalized_codes(model.encode_posterior(image), SeededStepContext(0, 0, 0, batch=400))
    assert normalized.shape == (400, *model.code_info.shape)
    # Codes are drawn from q(z|x), as when they were measured; posterior means alone may have little variance.
    assert float(normalized.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(normalized.std()) == pytest.approx(1 / 8, rel=0.05)
    code = model.centre + 8 * model.spread * (
        model._normalize(model.encode(image).view(400, *model.code_info.shape)) - 0.5
    )
    assert torch.allclose(code.flatten(1), model.encode(image).flatten(1), atol=1e-5)


def test_what_it_can_do_and_what_is_not_its_own(flow: RunDir) -> None:
    model = ectype.load(flow.path)
    for capability in (Samples, Encodes, Reconstructs, UsesFrozenCoder):
        assert isinstance(model, capability)
    assert not is_trained_to_encode(model)
    found = evaluate(flow)
    assert found.density == "implicit"
    distance = found.first_of("fd")
    assert distance is not None
    assert "reconstructions" in distance.baselines
    # A coder after such a short training has problems, but they are not those of this run.
    names = {finding.name for finding in check.check_run(open_view(flow))}
    assert not names & {"latent too small", "posterior collapse", "blur", "codes hard to generate"}


def test_steps_guidance_and_solver(flow: RunDir, coder: RunDir, tmp_path: Path) -> None:
    def drawn(way: SamplingOptions, **more: object) -> bytes:
        sample(flow.path, tmp_path / "x.png", n=9, seed=1, way=way, device="cpu", **more)
        return (tmp_path / "x.png").read_bytes()

    plain = drawn(AS_TRAINED, label="3")
    assert plain == drawn(SamplingOptions(10, "heun", 1.0), label="3")
    for way in (SamplingOptions(steps=3), SamplingOptions(solver="euler"), SamplingOptions(guidance=3.0)):
        assert drawn(way, label="3") != plain
    with pytest.raises(ModelError, match="samples in one step: leave --steps out"):
        sample(coder.path, tmp_path / "x.png", way=SamplingOptions(steps=3))
    with pytest.raises(ModelError, match="leave --guidance out"):
        sample(coder.path, tmp_path / "x.png", way=SamplingOptions(guidance=3.0))


def test_density_flow_trains_one_beside_the_run(coder: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ectype.inference import sample

    calls: list[tuple] = []
    real = sample.train
    monkeypatch.setattr(
        sample, "train", lambda recipe, run, _, **how: (calls.append((recipe, run)), real(recipe, run, FLOW, **how))[1]
    )
    for name in ("one", "two"):
        shown = CliRunner().invoke(
            app, ["sample", str(coder.path), "--density", "flow", "-n", "9", "--out", str(tmp_path / f"{name}.png")]
        )
        assert shown.exit_code == 0, shown.output
    assert [RunDir(place).state() for place in coder.path.glob("flow-*")] == ["finished"]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert calls == [("flow", coder.path)]  # the second finds it finished


def test_a_coder_is_not_asked_for_weights_of_its_own(flow: RunDir) -> None:
    model = ectype.load(flow.path)
    assert isinstance(model, LatentSpaceModel)
    own = own_modules(model)
    assert own[0] is model
    assert model.inner in own
    assert not set(model.coder.modules()) & set(own)
    assert len(own) == len(list(model.modules())) - len(list(model.coder.modules()))


def test_a_gan_of_codes(coder: RunDir, tmp_path: Path) -> None:
    run = train("latent-gan", coder.path, {**FAST, "train.batch": 32, "run.device": "cpu"}, out=tmp_path / "run")
    model = ectype.load(run.path)
    assert isinstance(model, LatentSpaceModel)
    assert model.sample(2).shape == (2, 1, 16, 16)
    assert {"critic", "generator"} == {f.stem.partition("-")[2] for f in run.checkpoints.glob("*/optimizer-*")}


def test_what_cannot_be(coder: RunDir, flow: RunDir, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a run, and model.kind=autoencoder is trained on images"):
        train("vae-mlp", coder.path, out=tmp_path / "a")
    gan = train(small("gan-mlp", **FAST), out=tmp_path / "gan")
    with pytest.raises(ModelError, match="has no codes of its own: give the run of an autoencoder"):
        train("flow", gan.path, out=tmp_path / "b")
    with pytest.raises(ModelError, match="has no codes of its own"):
        train("flow", flow.path, out=tmp_path / "c")
    with pytest.raises(RecipeError, match="no key 'latent_dim'"):
        train("flow", coder.path, ["latent_dim=4"], out=tmp_path / "d")
    model, info = flow.recipe.model, flow_info(flow)
    assert isinstance(model, LatentSpaceConfig)
    missing = "no model to encode images with at '.*nowhere'"
    for run, message in ((tmp_path / "nowhere", missing), (gan.path, r"do not fit model\.coder")):
        moved = model.model_copy(update={"coder": model.coder.model_copy(update={"run": str(run)})}).build(info)
        assert isinstance(moved, LatentSpaceModel)
        with pytest.raises(ModelError, match=message):
            moved.load_pretrained_weights()
    config = LatentSpaceConfig(coder=model.coder, inner=load_recipe("vae-mlp").model)
    with pytest.raises(ModelError, match="does not generate from noise"):
        config.build(info)


def test_a_copy_of_the_game_plays_with_its_own_players(coder: RunDir) -> None:
    import copy

    recipe = resolve("flow", coder.path, FLOW)
    info = ectype.load(coder.path).info
    objective = recipe.objective.build(recipe.model.build(info), info, images=100)
    assert isinstance(objective, LatentSpaceObjective)
    other = copy.deepcopy(objective)
    batch = Batch(torch.rand(4, *info.shape), torch.zeros(4, dtype=torch.int64))
    other.turns[0].score(batch, SeededStepContext(0, 0, 0, batch=4)).total().backward()
    assert all(p.grad is None for p in objective.parameters())
    assert any(p.grad is not None for p in other.players["model"].parameters())
