"""Checks of what users pass to the methods of a loaded model.

A wrong range or order of axes rarely fails by itself: the model returns nonsense. `ectype.load` therefore returns
models that check their inputs. Training, evaluation and exported graphs do not: `Model` wraps its methods once, and a
wrapper checks only while `checks_inputs` is set, only in the outermost call, and never while a graph is traced.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ectype.core.errors import ModelError

__all__ = ["CHECKED_METHODS", "check_code", "check_images", "check_sample", "with_input_checks"]

TOLERANCE = 1e-3
"""Values may leave [0, 1] by a rounding error."""
MAX_NOISY = 10.0
"""Beyond this, values are not images with noise but images in 0 to 255."""


def with_input_checks(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that checks its arguments first if its model's `checks_inputs` is set."""
    check, signature = CHECKED_METHODS[name], inspect.signature(method)

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.checks_inputs or torch.compiler.is_compiling() or _tracing():
            return method(self, *args, **kwargs)
        self.checks_inputs = False  # what it calls gets what it computed
        try:
            check(self, name, signature.bind(self, *args, **kwargs).arguments)
            return method(self, *args, **kwargs)
        finally:
            self.checks_inputs = True

    return checked


def _tracing() -> bool:
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # public, not typed so


def _first(arguments: Mapping[str, Any]) -> Any:
    """The argument after self, whatever a model calls it."""
    return list(arguments.values())[1]


def check_images(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless `image` is a batch of images that the model takes."""
    image = _first(arguments)
    channels, height, width = model.info.shape
    any_size = hasattr(model, "translate") or len(getattr(model, "code_shape", ())) == 3
    wanted = f"[b, {channels}, {'h, w' if any_size else f'{height}, {width}'}]"

    def wrong(problem: str) -> ModelError:
        return ModelError(f"{name}: {problem}.")

    if not isinstance(image, Tensor):
        fix = "torch.from_numpy(images)" if type(image).__module__ == "numpy" else "a tensor"
        raise wrong(f"images are of type {type(image).__name__}, and must be a tensor {wanted} in [0, 1]; pass {fix}")
    shape = list(image.shape)
    if image.ndim == 3:
        raise wrong(f"images have shape {shape}, and must be {wanted}; add an axis, image[None]")
    if image.ndim != 4 or 0 in shape:
        raise wrong(f"images have shape {shape}, and must be {wanted}")
    if shape[1] != channels:
        if shape[3] == channels:
            raise wrong(f"images have shape {shape}, and must be {wanted}; move the channels, .permute(0, 3, 1, 2)")
        fix = {(3, 1): "; average them, .mean(1, keepdim=True)", (1, 3): "; repeat it, .expand(-1, 3, -1, -1)"}
        raise wrong(
            f"images have {shape[1]} channels ({shape}), and the model takes {channels}"
            + fix.get((shape[1], channels), "")
        )
    if not any_size and shape[2:] != [height, width]:
        raise wrong(
            f"images are {shape[2]}×{shape[3]} (height×width), and the model takes {height}×{width}; resize them, "
            f"torch.nn.functional.interpolate(images, ({height}, {width}), mode='bilinear', antialias=True)"
        )
    if not image.is_floating_point():
        fix = "divide by 255, images.float() / 255" if image.dtype == torch.uint8 else "convert them, images.float()"
        raise wrong(f"images are {_type(image)}, and must be floats in [0, 1]; {fix}")
    _check_place(model, name, "images", image)
    _check_range(model, name, image)


def _check_range(model: Any, name: str, image: Tensor) -> None:
    found = _extremes(image)
    if found is None:
        return
    low, high = found
    if low != low or high != high or abs(low) == float("inf") or abs(high) == float("inf"):
        raise ModelError(f"{name}: images hold NaN or infinite values, and must be in [0, 1]; remove or repair them.")
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    if getattr(model, "accepts_noise", False) and max(abs(low), abs(high)) <= MAX_NOISY:
        return
    if high > 2 and low >= 0:
        fix = "divide by 255" if high <= 255 else "rescale them"
    elif -1 - TOLERANCE <= low < -0.5 and high <= 1 + TOLERANCE:
        fix = "rescale them, (images + 1) / 2, if they are in [-1, 1]"
    elif low > -0.5 and high < 1.5:
        fix = "clip them, images.clamp(0, 1)"
    else:
        fix = "undo their normalization, images * std + mean"
    raise ModelError(f"{name}: images have values from {low:.4g} to {high:.4g}, and must be in [0, 1]; {fix}.")


def _extremes(values: Tensor) -> tuple[float, float] | None:
    """Least and largest value, NaN if there is one; None where tensors have no values that can be looked at."""
    if values.is_meta:
        return None
    try:
        low, high = torch.stack(torch.aminmax(values.detach())).tolist()
    except (RuntimeError, TypeError):  # inside of torch.func.vmap, or a tensor without memory
        return None
    return low, high


def _check_place(model: nn.Module, name: str, what: str, values: Tensor) -> None:
    """Raise `ModelError` if values are on another device, or of another type, than the model's weights."""
    weight = next(model.parameters(), None)
    if weight is None:
        return
    if values.device != weight.device:
        raise ModelError(
            f"{name}: {what} are on {values.device}, and the model is on {weight.device}; move them, "
            f"{what}.to('{weight.device}'), or the model."
        )
    if values.dtype != weight.dtype and not torch.is_autocast_enabled(values.device.type):
        raise ModelError(
            f"{name}: {what} are {_type(values)}, and the model's weights are {_type(weight)}; convert them, "
            f"{what}.to({weight.dtype})."
        )


def _type(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def check_code(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless `code` is a batch of codes as `encode` returns them."""
    code, expected = _first(arguments), tuple(model.code_shape)
    # A decoder of maps takes maps of other sizes.
    wanted = f"[b, {', '.join(map(str, expected if len(expected) == 1 else (expected[0], 'h', 'w')))}]"
    if not isinstance(code, Tensor):
        raise ModelError(f"{name}: codes are of type {type(code).__name__}, and must be a tensor {wanted}.")
    shape = list(code.shape)
    if code.ndim == len(expected):
        raise ModelError(f"{name}: codes have shape {shape}, and must be {wanted}; add an axis, code[None].")
    if code.ndim != len(expected) + 1 or shape[1] != expected[0] or 0 in shape:
        raise ModelError(f"{name}: codes have shape {shape}, and must be {wanted}, as encode returns them.")
    if not code.is_floating_point():
        raise ModelError(f"{name}: codes are {_type(code)}, and must be floats, as encode returns them.")
    _check_place(model, name, "codes", code)
    _check_finite(name, "codes", code)


def check_sample(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless `n`, `label` and `generator` can be used."""
    count = _check_count(name, "n", _first(arguments), "images")
    _check_label(model, name, arguments.get("label"), count)
    _check_generator(name, arguments.get("generator"))


def _check_count(name: str, argument: str, value: Any, what: str) -> int:
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ModelError(f"{name}: {argument}={value!r} is not a number of {what}; pass a whole number from 1 on.")
    return count


def _check_label(model: Any, name: str, label: Any, count: int) -> None:
    """Raise `ModelError` unless `label` holds a class for each of `count` images."""
    if label is not None and getattr(model, "conditional", False):
        classes = len(model.info.classes)
        example = f"torch.full(({count},), {classes - 1})"
        if not isinstance(label, Tensor) or tuple(label.shape) != (count,):
            said = f"has shape {list(label.shape)}" if isinstance(label, Tensor) else f"is a {type(label).__name__}"
            raise ModelError(f"{name}: label {said}, and must be a tensor of {count} class indices, such as {example}.")
        if label.dtype not in (torch.int64, torch.int32):
            raise ModelError(f"{name}: label is {_type(label)}, and must hold class indices; convert it, label.long().")
        if not bool(((label >= 0) & (label < classes)).all()):
            known = ", ".join(model.info.classes[:6]) + (", …" if classes > 6 else "")
            raise ModelError(
                f"{name}: label has values from {int(label.min())} to {int(label.max())}, and the model knows "
                f"{classes} classes, 0 to {classes - 1} ({known})."
            )
        trained = set(model.info.trained_classes)
        if (untrained := next((i for i in label.tolist() if i not in trained), None)) is not None:
            raise ModelError(
                f"{name}: label has the value {untrained} (class '{model.info.classes[untrained]}'), of which there "
                "were no training images; choose another class."
            )


def _check_generator(name: str, generator: torch.Generator | None) -> None:
    if generator is not None and generator.device.type != "cpu":
        raise ModelError(
            f"{name}: generator is on {generator.device}, and noise is drawn on the CPU so that it is the same on any "
            "device; pass torch.Generator().manual_seed(seed)."
        )


def _check_draws(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless images, the number of draws for each (`samples` or `k`) and `generator` can be used."""
    check_images(model, name, arguments)
    argument = "k" if "k" in arguments else "samples"
    _check_count(name, argument, arguments.get(argument, 1), "draws")
    _check_generator(name, arguments.get("generator"))


def _check_latents(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless `latent` holds finite floats and `label` a class for each."""
    latent = _first(arguments)
    if not isinstance(latent, Tensor) or latent.ndim < 2 or 0 in latent.shape:
        said = f"have shape {list(latent.shape)}" if isinstance(latent, Tensor) else f"are a {type(latent).__name__}"
        raise ModelError(f"{name}: latents {said}, and must be a tensor [n, …], as sample_latents returns them.")
    if not latent.is_floating_point():
        raise ModelError(f"{name}: latents are {_type(latent)}, and must be floats, as sample_latents returns them.")
    _check_place(model, name, "latents", latent)
    _check_finite(name, "latents", latent)
    _check_label(model, name, arguments.get("label"), len(latent))


def _check_finite(name: str, what: str, values: Tensor) -> None:
    found = _extremes(values)
    if found is not None and not all(abs(value) < float("inf") for value in found):
        raise ModelError(f"{name}: {what} hold NaN or infinite values; check where they come from.")


CHECKED_METHODS: Mapping[str, Callable[[Any, str, Mapping[str, Any]], None]] = {
    "reconstruct": check_images,
    "encode": check_images,
    "translate": check_images,
    "log_likelihood": _check_draws,
    "sample_posterior": _check_draws,
    "log_weights": check_images,
    "decode": check_code,
    "sample": check_sample,
    "sample_latents": check_sample,
    "render": _check_latents,
}
"""The methods of a model that check their inputs, and how."""
