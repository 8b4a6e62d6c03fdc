"""Export a trained autoencoder as a folder that diffusers loads, with the scaling of its codes."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import ModelError
from ectype.core.escape import for_json, for_markdown
from ectype.core.optional import optional_import
from ectype.export.export import staged_folder
from ectype.export.preprocessing import describe_preprocessing
from ectype.models.autoencoder import GaussianAutoencoder
from ectype.models.base import Model, evaluating
from ectype.nets.autoencoder_kl import BLOCK_TYPES, DIFFUSERS_CLASS, KLDecoder, KLEncoder, LatentScaling

__all__ = ["export"]

MAX_DIFFERENCE = 1e-5
"""Maximum difference between the outputs of diffusers and of Ectype."""
MIN_RELATIVE_SHIFT = 0.1
"""Codes are shifted if their mean is more than this fraction of their standard deviation."""
IMAGES_PER_BATCH = 8

README = """# {name}

An autoencoder for diffusers, trained with Ectype: {channels} channels, {height}×{width} px, codes of {code}.

```python
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained({quoted})
image = torch.rand(1, {channels}, {height}, {width}) * 2 - 1  # [-1, 1]
with torch.no_grad():
    code = vae.encode(image).latent_dist.sample()
    scaled = {scaled}  # what a diffusion model is trained on
    back = vae.decode({unscaled}).sample
```

`scaling_factor` {scaling:.6g}{shift}: {origin}.
"""


class _Differences(NamedTuple):
    """Largest differences between the outputs of diffusers and of Ectype."""

    mean: float
    log_variance: float
    image: float
    """For images in [-1, 1]."""


def export(
    model: Model, out: Path, images: Float[Tensor, "b c h w"], *, preprocessing: Mapping[str, Any] | None = None
) -> list[str]:
    """Write a folder that `diffusers.AutoencoderKL.from_pretrained` loads, and check that its outputs are the same.

    `scaling_factor` is 1 over the standard deviation of codes drawn for the images; `shift_factor` is their mean if
    that is more than a tenth of it. If the encoder was pretrained and frozen, both are the encoder's own.

    Args:
        model: An autoencoder with `net=diffusers` and a Gaussian bottleneck.
        out: A folder that is new, empty, or contains an earlier export.
        images: Images in [0, 1], of the model's size, on which codes and outputs are measured.
        preprocessing: How images are prepared for it, as `preprocessing_of` returns it for [-1, 1]; for the card, and
            written as `preprocessing.json`.

    Returns:
        Lines that say what was written, and how much outputs differ.

    Raises:
        ModelError: The model has another network, the folder contains other files, diffusers is not installed, or
            outputs differ.
    """
    if not (
        isinstance(model, GaussianAutoencoder)
        and isinstance(model.encoder, KLEncoder)
        and isinstance(model.decoder, KLDecoder)
        and model.likelihood.linear
        and model.likelihood.params_per_element == 1
    ):
        raise ModelError(
            f"only an {DIFFUSERS_CLASS} can be exported to diffusers: "
            f"train `vae-kl` (net=diffusers, bottleneck=gaussian, "
            "likelihood.output=linear)."
        )
    with evaluating(model):
        scaling, origin = _scaling(model, images)
        parts = (model.encoder, model.decoder)
        exported = _class()(**_config(model, scaling))
        exported.load_state_dict({name: value.cpu() for part in parts for name, value in part.state_dict().items()})
        with staged_folder(out) as scratch:
            exported.save_pretrained(scratch, safe_serialization=True)
            readme = _readme(model, out, scaling, origin)
            if preprocessing is not None:
                readme += f"\n{describe_preprocessing(preprocessing)}\n"
                text = json.dumps(preprocessing, indent=1, ensure_ascii=False)
                (scratch / "preprocessing.json").write_text(text, encoding="utf-8")
            (scratch / "README.md").write_text(readme, encoding="utf-8")
            differences = _compare(model, scratch, images)
            if not max(differences) <= MAX_DIFFERENCE:
                raise ModelError(
                    f"diffusers computes other outputs from these weights ({_differences_text(differences)}; at "
                    f"most {MAX_DIFFERENCE:g} is allowed): nothing was written; compare in float32, and with the "
                    "version of diffusers that the model was trained with."
                )
    shift = "" if scaling.shift_factor is None else f", shift_factor {scaling.shift_factor:.4g}"
    return [
        f"diffusers.{DIFFUSERS_CLASS} → {out}",
        f"on {len(images)} images, diffusers differs from Ectype by at most {_differences_text(differences)}",
        f"scaling_factor {scaling.scaling_factor:.4g}{shift}, {origin}",
    ]


def _differences_text(found: _Differences) -> str:
    return f"{found.mean:.2g} in means, {found.log_variance:.2g} in log variances, {found.image:.2g} in images"


def _class() -> Any:
    return optional_import("diffusers.models.autoencoders.autoencoder_kl", "diffusers", "the export").AutoencoderKL


def _config(model: GaussianAutoencoder, scaling: LatentScaling) -> dict[str, Any]:
    """Return the content of config.json."""
    assert isinstance(model.encoder, KLEncoder)
    config, (height, width) = model.encoder.config, model.info.size
    shared = config.model_dump(exclude={"kind", "train", "scaling"})
    return {
        **shared,
        **{key: (block,) * len(config.block_out_channels) for key, block in BLOCK_TYPES.items()},
        "in_channels": model.info.channels,
        "out_channels": model.info.channels,
        "sample_size": height if height == width else (height, width),
        **scaling.model_dump(),
    }


def _scaling(model: GaussianAutoencoder, images: Tensor) -> tuple[LatentScaling, str]:
    """Return the scaling that gives codes unit variance, and a few words on its origin."""
    assert isinstance(model.encoder, KLEncoder)
    config = model.encoder.config
    if config.train == "decoder" and config.scaling.scaling_factor is not None:
        return config.scaling, "from the pretrained encoder, which was frozen"
    generator, drawn = torch.Generator().manual_seed(0), []
    for batch in _batches(model, images):
        posterior = model.posterior(batch)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        drawn.append(posterior.sample(noise).double().cpu())
    codes = torch.cat(drawn)
    mean, std = float(codes.mean()), float(codes.std())
    shift = mean if abs(mean) > MIN_RELATIVE_SHIFT * std else None
    return LatentScaling(scaling_factor=1 / std, shift_factor=shift), f"measured on codes of {len(images)} images"


def _batches(model: GaussianAutoencoder, images: Tensor) -> Iterator[Tensor]:
    parameter = next(model.parameters())
    for batch in images.split(IMAGES_PER_BATCH):
        yield batch.to(parameter.device, parameter.dtype)


def _compare(model: GaussianAutoencoder, folder: Path, images: Tensor) -> _Differences:
    """Return the largest differences between the model and what diffusers loads from a folder."""
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore", ResourceWarning)  # diffusers does not close a file
        loaded = _class().from_pretrained(folder, low_cpu_mem_usage=False).eval()
    loaded.to(next(model.parameters()).device)
    largest = _Differences(0.0, 0.0, 0.0)
    for batch in _batches(model, images):
        expected, actual = model.posterior(batch), loaded.encode(2 * batch - 1).latent_dist
        image = 2 * model.decode_unclamped(expected.mean) - 1
        pairs = (
            (expected.mean, actual.mean),
            (expected.log_variance, actual.logvar),
            (image, loaded.decode(expected.mean).sample),
        )
        largest = _Differences(*(max(m, float((a - b).abs().max())) for m, (a, b) in zip(largest, pairs, strict=True)))
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and messages of diffusers."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _readme(model: GaussianAutoencoder, out: Path, scaling: LatentScaling, origin: str) -> str:
    channels, height, width = model.info.shape
    shifted = scaling.shift_factor is not None
    return README.format(
        name=for_markdown(out.name),
        quoted=for_json(json.dumps(out.name, ensure_ascii=False)),
        channels=channels,
        height=height,
        width=width,
        code="×".join(map(str, model.code_shape)),
        scaled="(code - vae.config.shift_factor) * vae.config.scaling_factor"
        if shifted
        else "code * vae.config.scaling_factor",
        unscaled="scaled / vae.config.scaling_factor + vae.config.shift_factor"
        if shifted
        else "scaled / vae.config.scaling_factor",
        scaling=scaling.scaling_factor,
        shift=f" and `shift_factor` {scaling.shift_factor:.6g}" if shifted else "",
        origin=origin,
    )
