from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ectype.errors import ModelError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig
from ectype.nets.linear import fit_pca
from ectype.nets.resampling import Upsampling
from ectype.nets.squares import squares
from ectype.sections import DataInfo

COLOUR = DataInfo(3, (64, 64))


def smooth(n: int = 24, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    small = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=size, mode="bicubic").clamp(0, 1)


def built(net: dict, info: DataInfo = COLOUR) -> Autoencoder:
    torch.manual_seed(0)
    given = {"net": {"kind": "conv", "width": 16, "max_width": 32, "shortcut": "pca", **net}, "start_at_mean": False}
    return AutoencoderConfig.model_validate({**given, "likelihood": {"kind": "mse", "output": "linear"}}).build(info)


@pytest.mark.parametrize("up", ["nearest", "shuffle", "residual_shuffle"])
@pytest.mark.parametrize("patch", [1, 4])
def test_a_fresh_autoencoder_around_them_begins_as_they_are(up: Upsampling, patch: int) -> None:
    images = smooth()
    model = built({"latent": (12, 8, 8), "up": up, "patch": patch})
    model.start_from(images.mean(0), lambda: images)
    found = fit_pca(squares(images, 8), 12)
    rows = found.reconstruct(squares(images, 8)[:, :, None, None])[..., 0, 0]
    linear = F.pixel_shuffle(rows.unflatten(0, (24, 8, 8)).movedim(-1, 1), 8)
    lost = float((linear - images).square().mean())
    with torch.no_grad():
        code = model.encode(images)
        assert (code.var((0, 2, 3)) - 1).abs().max() < 0.3
        made = model.decode(code)
        assert float((made - linear).square().mean()) < 0.5 * lost
        assert not torch.equal(made, linear)
        assert model.reconstruct(smooth(2, (128, 96))).shape == (2, 3, 128, 96)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.encoder(images).dtype == model.decoder(code).dtype == torch.float32
    groups = model.parameter_groups()
    assert [group.scale for group in groups] == [1, 0.1, 0.1]
    assert sum(len(group.parameters) for group in groups) == len(list(model.parameters()))


def test_sizes_that_do_not_divide_and_fewer_squares_than_components() -> None:
    info = DataInfo(3, (44, 60))
    model = built({"latent": (20, 6, 8)}, info)
    images = smooth(1, (44, 60))[..., :8]
    model.start_from(images.mean(0), lambda: images)
    with torch.no_grad():
        made = model.reconstruct(smooth(2, (44, 60)))
    assert made.shape == (2, 3, 44, 60)
    assert made.isfinite().all()


@pytest.mark.parametrize("latent", [None, (192, 8, 8)])
def test_a_code_that_is_no_map_or_larger_than_the_image_is_refused(latent: tuple[int, int, int] | None) -> None:
    with pytest.raises(ModelError, match=r"such as latent=\[4, 8, 8\]"):
        built({"latent": latent})


def test_pixels_are_not_put_through_a_sigmoid() -> None:
    given = {"net": {"kind": "conv", "latent": (4, 8, 8), "shortcut": "pca"}}
    with pytest.raises(ModelError, match=r"set likelihood\.output=linear"):
        AutoencoderConfig.model_validate(given).build(COLOUR)


def test_an_encoder_without_squares_asks_for_no_images() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "conv", "width": 8}}).build(COLOUR)

    def never() -> torch.Tensor:
        raise AssertionError("a quarter of a gigabyte for nothing")

    model.start_from(torch.full((3, 64, 64), 0.5), never)
