"""A user's own modules and losses as parts of models."""

from __future__ import annotations

import copy
import doctest
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ectype
from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError
from ectype.losses import weighted
from ectype.losses.weighted import WeightedLoss, register_loss
from ectype.nets import registered, registered_kinds
from ectype.nets.registered import (
    ModuleNotRegistered,
    build_registered,
    overrides_for,
    register_module,
    registered_modules,
)
from ectype.nets.registered_kinds import RegisteredCoderConfig, RegisteredCriticConfig
from ectype.runs.run_dir import RunDir
from tests.conformance.small import small

INFO = DataInfo(1, (16, 16))
FAST = {"train.images": 320, "monitor.every": 160, "run.pictures": 0, "run.log_every": 1000}


@pytest.fixture(autouse=True)
def _own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "_modules", {})
    monkeypatch.setattr(weighted, "_registered", {})


class MyEncoder(nn.Module):
    def __init__(self, info: DataInfo, out: int = 32) -> None:
        super().__init__()
        self.linear = nn.Linear(info.channels * info.size[0] * info.size[1], out)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.flatten(1))


class MyDecoder(nn.Module):
    def __init__(self, info: DataInfo, d: int = 16) -> None:
        super().__init__()
        self.shape = info.shape
        self.linear = nn.Linear(d, info.channels * info.size[0] * info.size[1])

    def forward(self, code: Tensor) -> Tensor:
        return self.linear(code).view(-1, *self.shape)


def scores(info: DataInfo) -> nn.Module:
    return nn.Sequential(nn.Conv2d(info.channels, 8, 4, 2, 1), nn.LeakyReLU(), nn.Flatten(), nn.LazyLinear(1))


def with_net(name: str, **net: Any) -> Recipe:
    return load_recipe(name).override({"model.net": {"kind": "registered", **net}})


def test_examples() -> None:
    assert doctest.testmod(registered).failed == 0
    assert doctest.testmod(registered_kinds).failed == 0
    assert doctest.testmod(weighted).failed == 0


# ── Building ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_registered_encoder_and_decoder_make_a_model() -> None:
    register_module("mine", MyEncoder)
    register_module("back")(MyDecoder)
    assert registered_modules() == ["back", "mine"]
    recipe = with_net("vae-fast", encoder="mine", decoder="back", latent_dim=16)
    model = recipe.model.build(INFO)
    assert isinstance(model.encoder, MyEncoder)
    assert isinstance(model.decoder, MyDecoder)
    assert model.reconstruct(torch.rand(3, 1, 16, 16)).shape == (3, 1, 16, 16)
    assert load_recipe(recipe.plain()) == recipe
    assert recipe.plain()["model"]["net"]["encoder"] == "mine"


def test_the_part_that_is_not_named_comes_from_the_base() -> None:
    register_module("mine", MyEncoder)
    base = load_recipe("vae-fast").plain()["model"]["net"]
    model = with_net("vae-fast", encoder="mine", base=base).model.build(INFO)
    assert model.code_shape == (16,)
    usual = load_recipe("vae-fast").model.build(INFO)
    assert {k: v.shape for k, v in model.decoder.state_dict().items()} == {
        k: v.shape for k, v in usual.decoder.state_dict().items()
    }
    wide = with_net("vae-fast", encoder="mine", base=base, latent_dim=12)
    with pytest.raises(ModelError, match=r"set net.latent_dim=16"):
        wide.model.build(INFO)


def test_an_object_is_copied_with_its_weights() -> None:
    own = MyEncoder(INFO)
    register_module("mine", own)
    built = build_registered("mine", INFO)
    assert built is not own
    assert torch.equal(built.linear.weight, own.linear.weight)
    with torch.no_grad():
        built.linear.weight.zero_()
    assert build_registered("mine", INFO).linear.weight.abs().sum() > 0


@pytest.mark.parametrize("returned", ["flat", "one", "map", "features"])
def test_a_registered_critic_gives_scores_or_features(returned: str) -> None:
    class Critic(nn.Module):
        def __init__(self, info: DataInfo) -> None:
            super().__init__()
            self.conv = nn.Conv2d(info.channels, 6 if returned == "features" else 1, 4, 4)

        def forward(self, image: Tensor) -> Tensor:
            found = self.conv(image)
            return {
                "flat": found.mean((1, 2, 3)),
                "one": found.mean((2, 3)),
                "map": found,
                "features": found.mean((2, 3)),
            }[returned]

    register_module("critic", Critic)
    recipe = load_recipe("gan").override({"objective.adversary.critic": {"kind": "registered", "name": "critic"}})
    objective = recipe.objective.build(recipe.model.build(INFO), INFO, images=100)
    adversary = objective.adversary
    assert isinstance(adversary.head, nn.Linear if returned == "features" else nn.Identity)
    found = adversary.critic(torch.rand(2, 1, 16, 16), None)
    assert found.shape == {"map": (2, 16, 1), "features": (2, 6)}.get(returned, (2, 1))


def test_a_conditional_critic_gets_labels_as_channels() -> None:
    register_module("critic", scores)
    config = RegisteredCriticConfig(name="critic")
    critic = config.build(3, (16, 16), 4)
    assert critic(torch.rand(2, 3, 16, 16), torch.rand(2, 4)).shape == (2, 1)


def test_checking_shapes_changes_neither_modes_nor_statistics_nor_draws() -> None:
    class Normed(MyEncoder):
        def __init__(self, info: DataInfo) -> None:
            super().__init__(info)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, image: Tensor) -> Tensor:
            torch.rand(1)
            return super().forward(self.norm(image))

    register_module("mine", Normed)
    config = RegisteredCoderConfig(encoder="mine", latent_dim=32)
    torch.manual_seed(0)
    module = config.encoder(INFO, 1)
    after = torch.rand(1)
    torch.manual_seed(0)
    build_registered("mine", INFO)
    assert torch.equal(after, torch.rand(1))
    assert module.training
    assert module.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    "module, message",
    [
        (lambda info: MyEncoder(info, 30), r"returns \[b, 30\].*must return \[b, 32\].*net.latent_dim=15"),
        (lambda info: nn.Conv2d(1, 2, 3), r"returns \[b, 2, 14, 14\].*net.latent=\[1, 14, 14\]"),
        (lambda info: nn.Linear(3, 4), r"the encoder 'mine' fails on an input of shape \[2, 1, 16, 16\]"),
        (lambda info: nn.LSTM(16, 4), "fails on an input|returns a tuple"),
        (lambda info: nn.Identity(1) / 2, "cannot be built"),
        (lambda info: 3, "returned a int"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_in_one_line(module: Any, message: str) -> None:
    register_module("mine", module)
    with pytest.raises(ModelError, match=message) as caught:
        with_net("vae-fast", encoder="mine", decoder="mine", latent_dim=16).model.build(INFO)
    assert "\n" not in str(caught.value)


def test_other_parts_that_do_not_fit_are_refused() -> None:
    register_module("mine", lambda info: MyEncoder(info, 8))
    with pytest.raises(ModelError, match=r"the decoder 'mine' fails on an input of shape \[2, 16\]"):
        with_net("ae", decoder="mine", latent_dim=16).model.build(INFO)
    register_module("noise", lambda info: nn.Linear(128, 5))
    with pytest.raises(ModelError, match=r"the generator 'noise' returns \[b, 5\]"):
        load_recipe("gan").override({"model.net": {"kind": "registered", "name": "noise"}}).model.build(INFO)
    register_module("critic", lambda info: nn.Flatten(0))
    with pytest.raises(ModelError, match="the critic 'critic' returns"):
        RegisteredCriticConfig(name="critic").build(1, (16, 16), 0)


def test_names_that_cannot_be() -> None:
    with pytest.raises(ModelError, match=r"register it with ectype\.register_module"):
        with_net("ae", encoder="unknown").model.build(INFO)
    register_module("my-encoder", MyEncoder)
    with pytest.raises(ModelError, match="did you mean 'my-encoder'"):
        with_net("ae", encoder="my-encodr").model.build(INFO)
    with pytest.raises(RecipeError, match="needs the name of a registered encoder or decoder"):
        with_net("ae")
    with pytest.raises(ModelError, match="letters, digits"):
        register_module("my encoder", MyEncoder)
    with pytest.raises(ModelError, match="is of type int"):
        register_module("mine", 3)  # type: ignore[arg-type]

    class Uncopied(nn.Module):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("no")

    with pytest.raises(ModelError, match="cannot be copied"):
        register_module("mine", Uncopied())


# ── Objects in place of names ────────────────────────────────────────────────────────────────────────────────────────


def test_objects_are_registered_under_the_name_of_their_class() -> None:
    found = overrides_for("vae-fast", encoder=MyEncoder, decoder=MyDecoder(INFO))
    assert found["model.net"] == {
        "kind": "registered",
        "encoder": "my-encoder",
        "decoder": "my-decoder",
        "latent_dim": 16,
        "latent": None,
    }
    assert found["model.start_at_mean"] is False
    assert overrides_for(encoder="mine")["model.net"]["encoder"] == "mine"
    sequential = nn.Sequential(nn.Flatten())
    assert overrides_for(critic=sequential)["objective.adversary.critic"]["name"] == "critic-sequential"
    assert overrides_for("gan", generator=sequential) == {
        "model.net": {"kind": "registered", "name": "generator-sequential"}
    }
    assert overrides_for() == {}


def test_what_is_not_replaced_stays_as_the_recipe_has_it() -> None:
    found = overrides_for("vae-fast", encoder=MyEncoder)
    assert found["model.net"]["base"] == load_recipe("vae-fast").plain()["model"]["net"]
    both = load_recipe("vae-fast").override(found)
    again = overrides_for(both, encoder=MyEncoder)
    assert again == found  # nothing is wrapped twice
    assert both.override({**found, "latent_dim": 4}).model.net.latent_dim == 4  # type: ignore[attr-defined]
    without = load_recipe("vae-fast").override({**overrides_for(encoder="mine"), "latent_dim": 4})
    assert without.model.net.latent_dim == 4  # type: ignore[attr-defined]


def test_parts_that_a_recipe_does_not_have_are_refused() -> None:
    with pytest.raises(RecipeError, match="no encoder and decoder to replace"):
        overrides_for("gan", encoder=MyEncoder)
    with pytest.raises(RecipeError, match="no generator to replace"):
        overrides_for("vae-fast", generator=MyEncoder)
    with pytest.raises(RecipeError, match="parts of different models"):
        overrides_for(encoder=MyEncoder, generator=MyEncoder)
    with pytest.raises(ModelError, match=r"ectype.register_module\('my-encoder'"):
        overrides_for(encoder=lambda info: MyEncoder(info))


# ── Training and loading ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_with_own_modules_is_trained_loaded_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("vae-fast", **FAST)
    d = recipe.model.net.latent_dim  # type: ignore[attr-defined]
    factory = MyDecoder(INFO, d)
    overrides = overrides_for(recipe, encoder=copy.deepcopy(MyEncoder(INFO, 2 * d)), decoder=factory)
    run = ectype.train(recipe.override(overrides), out=tmp_path / "run")
    model = ectype.load(run.path)
    assert isinstance(model.encoder, MyEncoder)
    image = torch.rand(2, 1, 16, 16)
    expected = model.reconstruct(image)
    saved = json.loads((run.path / "model" / "config.json").read_text())
    assert saved["model"]["net"]["encoder"] == "my-encoder"
    # Another process, or this one without the modules, says what is missing.
    monkeypatch.setattr(registered, "_modules", {})
    with pytest.raises(ModuleNotRegistered, match=r"uses the module 'my-encoder': register it"):
        ectype.load(run.path)
    register_module("my-encoder", lambda info: MyEncoder(info, 2 * d))
    register_module("my-decoder", lambda info: MyDecoder(info, d))
    assert torch.equal(ectype.load(run.path).reconstruct(image), expected)


def test_a_file_of_plug_ins_registers_modules_for_the_command_line(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "import ectype\nfrom torch import nn\nfrom ectype.nets.registered import register_module\n"
        "@register_module('mine')\ndef mine(info):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8))\n"
    )
    script = (
        "from ectype.config.recipe import load_recipe; from ectype.config.schema import DataInfo\n"
        "net = {'kind': 'registered', 'encoder': 'mine', 'latent_dim': 8}\n"
        "recipe = load_recipe('ae').override({'model.net': net})\n"
        "print(recipe.model.build(DataInfo(1, (16, 16))).encoder[1])"
    )
    environment = {**os.environ, "ECTYPE_PLUGINS": str(plugin)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Linear(in_features=256, out_features=8")


def test_a_gan_with_own_generator_and_critic_is_trained(tmp_path: Path) -> None:
    class Paints(MyDecoder):
        pass

    recipe = small("gan", **FAST)
    d = recipe.model.latent_dim  # type: ignore[attr-defined]
    register_module("paints", lambda info: Paints(info, d))
    overrides = overrides_for(recipe, generator="paints", critic=scores)
    run = ectype.train(recipe.override(overrides), out=tmp_path / "run")
    assert ectype.load(run.path).sample(2).shape == (2, 1, 16, 16)


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_own_loss_is_one_term_of_training(tmp_path: Path) -> None:
    calls = []

    @register_loss("mine")
    def mine(output: Tensor, target: Tensor) -> Tensor:
        calls.append(output.shape)
        return (output - target).abs().mean()

    recipe = small("ae", **FAST, **{"objective.loss": {"mse": 1, "mine": 0.1}})
    run = ectype.train(recipe, out=tmp_path / "run")
    assert calls
    assert any("mine" in line for line in map(str, RunDir(run.path).metrics()))


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda output, target: (output - target).abs(), r"returned a tensor \[2, 1, 8, 8\] for 2 images"),
        (lambda output, target: 0.5, "returned a float"),
        (lambda output, target: (output - target).detach().abs().mean(), "has no gradient"),
    ],
)
def test_losses_that_cannot_be_used(loss: Any, message: str) -> None:
    register_loss("mine", loss)
    with pytest.raises(ModelError, match=message):
        WeightedLoss({"mine": 1}, channels=1)(torch.rand(2, 1, 8, 8, requires_grad=True), torch.rand(2, 1, 8, 8))


def test_a_module_as_a_loss_keeps_its_weights() -> None:
    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return (self.conv(output) - self.conv(target)).square().flatten(1).mean(1)

    register_loss("mine", Filtered())
    loss = WeightedLoss({"mine": 1}, channels=1)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    output = torch.rand(2, 1, 8, 8, requires_grad=True)
    loss(output, torch.rand(2, 1, 8, 8))["mine"].sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_names_of_losses() -> None:
    with pytest.raises(RecipeError, match="built-in"):
        register_loss("mse", lambda output, target: output.mean())
    with pytest.raises(RecipeError, match="letters, digits"):
        register_loss("a.b", lambda output, target: output.mean())
    with pytest.raises(RecipeError, match=r"ectype\.register_loss"):
        WeightedLoss({"unknown": 1}, channels=1)
