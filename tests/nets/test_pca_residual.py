from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig
from ectype.nets.pca import fit_pca
from ectype.nets.pca_residual import image_patches
from ectype.nets.resampling import Upsampling

RGB = DataInfo(3, (64, 64))


def smooth(n: int = 24, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    small = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=size, mode="bicubic").clamp(0, 1)


def built(net: dict, info: DataInfo = RGB) -> Autoencoder:
    torch.manual_seed(0)
    config = {"net": {"kind": "conv", "width": 16, "max_width": 32, "shortcut": "pca", **net}, "start_at_mean": False}
    return AutoencoderConfig.model_validate({**config, "likelihood": {"kind": "mse", "output": "linear"}}).build(info)


@pytest.mark.parametrize("up", ["nearest", "shuffle", "residual_shuffle"])
@pytest.mark.parametrize("patch", [1, 4])
def test_a_fresh_autoencoder_around_them_begins_as_they_are(up: Upsampling, patch: int) -> None:
    images = smooth()
    model = built({"latent": (12, 8, 8), "up": up, "patch": patch})
    model.initialize_from_data(images.mean(0), lambda: images)
    found = fit_pca(image_patches(images, 8), 12)
    rows = found.reconstruct(image_patches(images, 8)[:, :, None, None])[..., 0, 0]
    linear = F.pixel_shuffle(rows.unflatten(0, (24, 8, 8)).movedim(-1, 1), 8)
    lost = float((linear - images).square().mean())
    with torch.no_grad():
        code = model.encode(images)
        assert (code.var((0, 2, 3)) - 1).abs().max() < 0.3
        output = model.decode(code)
        assert float((output - linear).square().mean()) < 0.5 * lost
        assert not torch.equal(output, linear)
        assert model.reconstruct(smooth(2, (128, 96))).shape == (2, 3, 128, 96)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.encoder(images).dtype == model.decoder(code).dtype == torch.float32
    groups = model.parameter_groups()
    assert [group.lr_scale for group in groups] == [1, 0.1, 0.1]
    assert sum(len(group.parameters) for group in groups) == len(list(model.parameters()))


def test_sizes_that_do_not_divide_and_fewer_squares_than_components() -> None:
    info = DataInfo(3, (44, 60))
    model = built({"latent": (20, 6, 8)}, info)
    images = smooth(1, (44, 60))[..., :8]
    model.initialize_from_data(images.mean(0), lambda: images)
    with torch.no_grad():
        output = model.reconstruct(smooth(2, (44, 60)))
    assert output.shape == (2, 3, 44, 60)
    assert output.isfinite().all()


@pytest.mark.parametrize("latent", [None, (192, 8, 8)])
def test_a_code_that_is_no_map_or_larger_than_the_image_is_refused(latent: tuple[int, int, int] | None) -> None:
    with pytest.raises(ModelError, match=r"such as latent=\[4, 8, 8\]"):
        built({"latent": latent})


def test_pixels_are_not_put_through_a_sigmoid() -> None:
    config = {"net": {"kind": "conv", "latent": (4, 8, 8), "shortcut": "pca"}}
    with pytest.raises(ModelError, match=r"set likelihood\.output=linear"):
        AutoencoderConfig.model_validate(config).build(RGB)


def test_an_encoder_without_squares_asks_for_no_images() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "conv", "width": 8}}).build(RGB)

    def never() -> torch.Tensor:
        raise AssertionError("training images were loaded without need")

    model.initialize_from_data(torch.full((3, 64, 64), 0.5), never)
