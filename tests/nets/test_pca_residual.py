from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.autoencoder import Autoencoder, AutoencoderConfig, GaussianAutoencoder
from ectype.nets.pca import fit_pca
from ectype.nets.pca_residual import fit_linear_code, image_patches
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


def test_a_map_with_as_many_elements_as_the_image_is_refused() -> None:
    with pytest.raises(ModelError, match=r"such as latent=\[4, 8, 8\]"):
        built({"latent": (192, 8, 8)})


def test_a_vector_longer_than_the_image_starts_lossless() -> None:
    images = smooth(300, (8, 8))
    model = built({"kind": "pca_conv", "latent_dim": 200}, DataInfo(3, (8, 8)))
    model.initialize_from_data(images.mean(0), lambda: images)
    with torch.no_grad():
        assert (model.reconstruct(images) - images).square().mean() < 0.02 * images.var(0).mean()


@pytest.mark.parametrize("size", [(64, 64), (44, 60), (160, 96)])
def test_a_vector_starts_as_pca_of_whole_images(size: tuple[int, int]) -> None:
    images, unseen = smooth(200, size), smooth(50, size, seed=1)
    model = built({"kind": "pca_conv", "latent_dim": 40}, DataInfo(3, size))
    model.initialize_from_data(images.mean(0), lambda: images)
    linear = fit_pca(images.flatten(1), 40).reconstruct(unseen)
    with torch.no_grad():
        code, output = model.encode(images), model.reconstruct(unseen)
    assert code.shape == (200, 40)
    assert (code.var(0) - 1).abs().max() < 0.3
    lost, linear_lost = ((each - unseen).square().mean() for each in (output, linear))
    assert lost < 1.05 * linear_lost


@pytest.mark.parametrize("latent_dim", [None, 40])
def test_a_gaussian_posterior_starts_as_probabilistic_pca(latent_dim: int | None) -> None:
    images = (smooth(200) + 0.05 * torch.randn(200, 3, 64, 64, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    torch.manual_seed(0)
    config = {
        "net": {"kind": "pca_conv", "width": 16, "latent_dim": latent_dim},
        "bottleneck": {"kind": "gaussian"},
        "likelihood": {"kind": "gaussian", "output": "linear"},
    }
    model = AutoencoderConfig.model_validate(config).build(RGB)
    assert isinstance(model, GaussianAutoencoder)
    model.initialize_from_data(images.mean(0), lambda: images)
    flat = image_patches(images, 8) if latent_dim is None else images.flatten(1)
    pca = fit_pca(flat, model.code_shape[0])
    noise = float(flat.var(0).sum() - (pca.stds**2).sum()) / (flat.shape[1] - len(pca.stds))
    with torch.no_grad():
        posterior = model.posterior(images)
        codes = posterior.mean.movedim(1, 0).flatten(1)
        sigma = posterior.sigma.movedim(1, 0).flatten(1).mean(1)
    # Posterior and prior agree on average: the variances of mean and noise add up to 1.
    assert torch.allclose(codes.var(1) + sigma**2, torch.ones(len(codes)), atol=0.25)
    assert torch.allclose(sigma, (noise**0.5 / pca.stds).clamp(max=1), rtol=0.1)


def test_a_denoising_autoencoder_starts_as_wiener_filter_along_components() -> None:
    images, unseen, sigma = smooth(400), smooth(100, seed=1), 0.2
    config = {
        "net": {"kind": "pca_conv", "width": 8, "latent_channels": 40},
        "corruption": {"kind": "gaussian", "sigma": sigma},
        "likelihood": {"kind": "mse", "output": "linear"},
    }
    torch.manual_seed(0)
    model = AutoencoderConfig.model_validate(config).build(RGB)
    model.initialize_from_data(images.mean(0), lambda: images)
    noisy = unseen + sigma * torch.randn(unseen.shape, generator=torch.Generator().manual_seed(3))
    pca = fit_pca(image_patches(images, 8), 40)
    codes = (image_patches(noisy, 8) - pca.mean) @ pca.components.T

    def lost(scale: torch.Tensor) -> float:
        rows = (codes * scale) @ pca.components + pca.mean
        return float((rows - image_patches(unseen, 8)).square().mean())

    with torch.no_grad():
        found = float((model.decode_unclamped(model.encode(noisy)) - unseen).square().mean())
    wiener, plain = lost(pca.stds**2 / (pca.stds**2 + sigma**2)), lost(torch.ones(40))
    assert wiener < 0.9 * plain
    assert found == pytest.approx(wiener, rel=0.02)


def test_a_code_of_masked_images_predicts_the_clean_ones_as_regression_does() -> None:
    images = smooth(200)
    masked = images * (torch.rand(200, 1, 64, 64, generator=torch.Generator().manual_seed(1)) >= 0.5)
    clean, seen = image_patches(images, 8), image_patches(masked, 8)
    code = fit_linear_code(clean, 3)
    found = code.restoring(seen, clean)
    wanted, plain = (flat @ code.weight.T + code.offset for flat in (clean, seen))
    error = (seen @ found.weight.T + found.offset - wanted).square().mean(0)
    for element in range(3):
        correlation = float(torch.corrcoef(torch.stack([wanted[:, element], plain[:, element]]))[0, 1])
        unexplained = float(wanted[:, element].var()) * (1 - correlation**2)
        assert float(error[element]) == pytest.approx(unexplained, rel=1e-3)
    assert (error < 0.5 * (plain - wanted).square().mean(0)).any(), "the mean of masked images is another one"
    same = code.restoring(clean, clean)
    assert torch.allclose(same.weight, code.weight, rtol=1e-3, atol=1e-6)


def test_what_a_linear_code_cannot_use_is_left_at_zero() -> None:
    flat = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 0.1, 0.1, 0.1, 0.1])
    code = fit_linear_code(flat, 4, posterior=True)
    assert code.log_variance is not None
    assert (code.log_variance[:2] < -5).all()
    # Variances of noise alone: the posterior is close to the prior, and the decoder hardly uses the element.
    assert (code.log_variance[2:] > -0.4).all()
    assert code.inverse[:, 2:].norm(dim=0).max() < 0.06
    alone = fit_linear_code(flat[:1], 4, posterior=False)
    assert torch.equal(alone.mean, flat[0])
    assert not alone.weight.any()


@pytest.mark.parametrize("likelihood", ["mse", "bce", "discretised_logistic", "continuous_bernoulli"])
def test_a_likelihood_with_a_sigmoid_starts_near_pca_too(likelihood: str) -> None:
    images = smooth()

    def lost(**likelihood: str) -> float:
        torch.manual_seed(0)
        config = {"net": {"kind": "pca_conv", "width": 16}, "likelihood": likelihood}
        model = AutoencoderConfig.model_validate(config).build(RGB)
        model.initialize_from_data(images.mean(0), lambda: images)
        with torch.no_grad():
            return float((model.reconstruct(images) - images).square().mean())

    linear, spread = lost(kind="mse", output="linear"), float((images - images.mean(0)).square().mean())
    # The mean of a continuous Bernoulli is not the sigmoid: it is closer to gray.
    limit = 0.8 * spread if likelihood == "continuous_bernoulli" else 1.02 * linear
    assert lost(kind=likelihood) < limit


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (16, 33), (256, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_default_code_is_a_map_of_an_eighth(channels: int, size: tuple[int, int]) -> None:
    info = DataInfo(channels, size)
    model = AutoencoderConfig.model_validate({"net": {"kind": "pca_conv", "width": 8}}).build(info)
    assert model.code_shape == (4, -(-size[0] // 8), -(-size[1] // 8))
    assert model.reconstruct(torch.rand(2, channels, *size)).shape == (2, channels, *size)


def test_an_encoder_without_squares_asks_for_no_images() -> None:
    model = AutoencoderConfig.model_validate({"net": {"kind": "conv", "width": 8}}).build(RGB)

    def never() -> torch.Tensor:
        raise AssertionError("training images were loaded without need")

    model.initialize_from_data(torch.full((3, 64, 64), 0.5), never)
