from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from ectype.errors import ModelError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig
from ectype.nets.resampling import Upsampling
from ectype.nets.squares import principal
from ectype.sections import DataInfo

COLOUR = DataInfo(3, (64, 64))


def smooth(n: int = 24, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    small = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small, size=size, mode="bicubic").clamp(0, 1)


def built(net: dict, info: DataInfo = COLOUR) -> Autoencoder:
    torch.manual_seed(0)
    given = {"net": {"kind": "conv", "width": 16, "max_width": 32, "shortcut": "pca", **net}, "start_at_mean": False}
    return AutoencoderConfig.model_validate({**given, "likelihood": {"kind": "mse", "output": "linear"}}).build(info)


def test_components_are_those_of_scikit_learn() -> None:
    images = smooth()
    found = principal(images, 8, 6)
    squares = F.pixel_unshuffle(images, 8).movedim(1, -1).flatten(0, 2)
    exact = PCA(6).fit(squares.double().numpy())
    torch.testing.assert_close(found.mean, torch.from_numpy(exact.mean_).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.deviation, torch.from_numpy(exact.explained_variance_**0.5).float(), atol=1e-4, rtol=1e-3
    )
    ours = (squares - found.mean) @ found.basis @ found.basis.T + found.mean
    theirs = torch.from_numpy(exact.inverse_transform(exact.transform(squares.double().numpy()))).float()
    assert (ours - theirs).square().mean() < 1e-3 * (ours - squares).square().mean()
    # Neither what was drawn before nor what is drawn after changes.
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert torch.equal(principal(images, 8, 6).basis, found.basis)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("up", ["nearest", "shuffle", "residual_shuffle"])
@pytest.mark.parametrize("patch", [1, 4])
def test_a_fresh_autoencoder_around_them_begins_as_they_are(up: Upsampling, patch: int) -> None:
    images = smooth()
    model = built({"latent": (12, 8, 8), "up": up, "patch": patch})
    model.start_from(images.mean(0), images)
    found = principal(images, 8, 12)
    squares = F.pixel_unshuffle(images, 8).movedim(1, -1)
    linear = (squares - found.mean) @ found.basis @ found.basis.T + found.mean
    linear = F.pixel_shuffle(linear.movedim(-1, 1), 8)
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
    model.start_from(images.mean(0), images)
    with torch.no_grad():
        made = model.reconstruct(smooth(2, (44, 60)))
    assert made.shape == (2, 3, 44, 60)
    assert made.isfinite().all()


@pytest.mark.parametrize("latent", [None, (200, 8, 8)])
def test_a_code_that_is_no_map_or_larger_than_the_image_is_refused(latent: tuple[int, int, int] | None) -> None:
    with pytest.raises(ModelError, match=r"such as latent=\[4, 8, 8\]"):
        built({"latent": latent})
