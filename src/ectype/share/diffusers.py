"""A trained autoencoder as a folder that diffusers loads, with what a diffusion model needs to know of its codes."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.errors import ModelError
from ectype.extras import needed
from ectype.models.autoencoder import GaussianAutoencoder
from ectype.models.base import Model, evaluating
from ectype.nets.kl import BLOCKS, CLASS, KLDecoder, KLEncoder, Scaling

__all__ = ["export"]

EQUAL = 1e-5
"""How far what diffusers computes may be from ours."""
OFF_CENTRE = 0.1
"""Mean of the codes, as a share of their deviation, from which on it is taken off."""
AT_ONCE = 8

README = """# {name}

An autoencoder for diffusers, trained with Ectype: {channels} channels, {height}×{width} px, codes of {code}.

```python
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("{name}")
image = torch.rand(1, {channels}, {height}, {width}) * 2 - 1  # [-1, 1]
with torch.no_grad():
    code = vae.encode(image).latent_dist.sample()
    scaled = {scaled}  # what a diffusion model is trained on
    back = vae.decode({unscaled}).sample
```

`scaling_factor` {scaling:.6g}{shift}: {whence}.
"""


class _Found(NamedTuple):
    """How far diffusers is from us, at the most."""

    mean: float
    log_variance: float
    image: float
    """Where images are in [-1, 1]."""


def export(model: Model, out: Path, images: Float[Tensor, "b c h w"]) -> list[str]:
    """Write a folder that `diffusers.AutoencoderKL.from_pretrained` loads, and check that it computes the same.

    `scaling_factor` is 1 over the deviation of codes drawn for the images; `shift_factor` is their mean where that is
    more than a tenth of the deviation. Where the encoder was kept, both are those that it came with.

    Args:
        model: An autoencoder with `net=diffusers` and a Gaussian bottleneck.
        out: The folder, which must not hold anything yet.
        images: In [0, 1], of the model's size: what is compared and measured on.

    Returns:
        Lines that say what was written, and how far outputs are apart.

    Raises:
        ModelError: Another network, a folder that is taken, diffusers is not installed, or outputs that differ.
    """
    if not (
        isinstance(model, GaussianAutoencoder)
        and isinstance(model.encoder, KLEncoder)
        and isinstance(model.decoder, KLDecoder)
        and model.likelihood.linear
        and model.likelihood.heads == 1
    ):
        raise ModelError(
            f"only an {CLASS} can be written for diffusers: train `vae-kl` (net=diffusers, bottleneck=gaussian, "
            "likelihood.output=linear)."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"'{out}' is there already, and nothing is written over: give another --out.")
    with evaluating(model):
        scaling, whence = _scaling(model, images)
        parts = (model.encoder, model.decoder)
        theirs = _class()(**_config(model, scaling))
        theirs.load_state_dict({name: value.cpu() for part in parts for name, value in part.state_dict().items()})
        scratch = out.with_name(f"{out.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            theirs.save_pretrained(scratch, safe_serialization=True)
            (scratch / "README.md").write_text(_readme(model, out, scaling, whence), encoding="utf-8")
            found = _compare(model, scratch, images)
            if not max(found) <= EQUAL:
                raise ModelError(
                    f"diffusers computes something else from these weights ({_apart(found)}; at most {EQUAL:g} is "
                    "allowed): nothing was written; compare in float32, and with the version that trained it."
                )
            if out.exists():
                out.rmdir()
            scratch.rename(out)
        except OSError as error:
            raise ModelError(f"cannot write '{out}' ({error.strerror}): give a place that can be written.") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    shift = "" if scaling.shift_factor is None else f", shift_factor {scaling.shift_factor:.4g}"
    return [
        f"diffusers.{CLASS} → {out}",
        f"on {len(images)} images, diffusers differs from Ectype by at most {_apart(found)}",
        f"scaling_factor {scaling.scaling_factor:.4g}{shift}, {whence}",
    ]


def _apart(found: _Found) -> str:
    return f"{found.mean:.2g} in means, {found.log_variance:.2g} in log variances, {found.image:.2g} in images"


def _class() -> Any:
    return needed("diffusers.models.autoencoders.autoencoder_kl", "diffusers", "the export").AutoencoderKL


def _config(model: GaussianAutoencoder, scaling: Scaling) -> dict[str, Any]:
    """What config.json will say."""
    assert isinstance(model.encoder, KLEncoder)
    config, (height, width) = model.encoder.config, model.info.size
    shared = config.model_dump(exclude={"kind", "train", "scaling"})
    return {
        **shared,
        **{key: (plain,) * len(config.block_out_channels) for key, plain in BLOCKS.items()},
        "in_channels": model.info.channels,
        "out_channels": model.info.channels,
        "sample_size": height if height == width else (height, width),
        **scaling.model_dump(),
    }


def _scaling(model: GaussianAutoencoder, images: Tensor) -> tuple[Scaling, str]:
    """What brings codes to size 1, and where it is from."""
    assert isinstance(model.encoder, KLEncoder)
    config = model.encoder.config
    if config.train == "decoder" and config.scaling.scaling_factor is not None:
        return config.scaling, "as the encoder came with it, which was kept"
    generator, drawn = torch.Generator().manual_seed(0), []
    for part in _parts(model, images):
        posterior = model.posterior(part)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        drawn.append(posterior.draw(noise).double().cpu())
    codes = torch.cat(drawn)
    mean, deviation = float(codes.mean()), float(codes.std())
    shift = mean if abs(mean) > OFF_CENTRE * deviation else None
    return Scaling(scaling_factor=1 / deviation, shift_factor=shift), f"measured on codes of {len(images)} images"


def _parts(model: GaussianAutoencoder, images: Tensor) -> Iterator[Tensor]:
    here = next(model.parameters())
    for part in images.split(AT_ONCE):
        yield part.to(here.device, here.dtype)


def _compare(model: GaussianAutoencoder, folder: Path, images: Tensor) -> _Found:
    """The largest differences between the model and what diffusers loads from a folder."""
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore", ResourceWarning)  # diffusers leaves a file for Python to close
        theirs = _class().from_pretrained(folder, low_cpu_mem_usage=False).eval()
    theirs.to(next(model.parameters()).device)
    apart = _Found(0.0, 0.0, 0.0)
    for part in _parts(model, images):
        ours, posterior = model.posterior(part), theirs.encode(2 * part - 1).latent_dist
        image = 2 * model.expect(ours.mean) - 1
        pairs = (
            (ours.mean, posterior.mean),
            (ours.log_variance, posterior.logvar),
            (image, theirs.decode(ours.mean).sample),
        )
        apart = _Found(*(max(m, float((a - b).abs().max())) for m, (a, b) in zip(apart, pairs, strict=True)))
    return apart


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and remarks of diffusers."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _readme(model: GaussianAutoencoder, out: Path, scaling: Scaling, whence: str) -> str:
    channels, height, width = model.info.shape
    shifted = scaling.shift_factor is not None
    return README.format(
        name=out.name,
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
        whence=whence,
    )
