from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ectype.nets.blocks import he_init
from ectype.nets.resampling import (
    DownConv,
    Residual,
    ShortcutDown,
    ShortcutUp,
    ShuffleConv,
    TransposedConv,
    UnshuffleConv,
    UpConv,
    Upsampling,
    halved_size,
    upsampling_layers,
    with_shortcut,
)

KINDS: list[Upsampling] = ["nearest", "transposed", "shuffle", "residual_shuffle"]


def pattern(net: nn.Module, channels: int, side: int = 8) -> float:
    """Return the largest relative standard deviation within a channel for a constant input, away from the border."""
    with torch.no_grad():
        out = net(torch.ones(1, channels, side, side))[:, :, 4:-4, 4:-4]
    return float(out.std((2, 3)).max() / out.abs().max())


@pytest.mark.parametrize("prepare", [lambda net: net, he_init], ids=["torch", "he"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_of_fresh_blocks_only_transposed_convolution_draws_a_checkerboard(
    kind: Upsampling, kernel: int, prepare: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    net = prepare(nn.Sequential(*upsampling_layers(kind, 8, 4, (16, 16), kernel=kernel)))
    if kind == "transposed":
        assert pattern(net, 8) > 0.05
    else:
        assert pattern(net, 8) < 1e-6


def test_pixel_shuffling_draws_one_where_its_weights_do_not_start_equal() -> None:
    net = ShuffleConv(8, 4, (16, 16))
    assert pattern(net, 8) < 1e-6
    nn.init.normal_(net.weight)
    assert pattern(net, 8) > 0.05


@pytest.mark.parametrize("factor", [2, 4])
def test_a_fresh_shuffle_is_a_convolution_before_nearest_neighbour(factor: int) -> None:
    net = ShuffleConv(6, 3, (8 * factor, 8 * factor), factor=factor)
    assert net.bias is not None
    nn.init.normal_(net.bias)
    x = torch.randn(2, 6, 8, 8)
    small = F.conv2d(x, net.weight[:: factor**2], net.bias, padding=1)
    torch.testing.assert_close(net(x), F.interpolate(small, scale_factor=factor))


@pytest.mark.parametrize("size", [(14, 14), (13, 13), (9, 16), (1, 2)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_they_go_to_their_size_and_double_any_other(kind: Upsampling, kernel: int, size: tuple[int, int]) -> None:
    net = nn.Sequential(*upsampling_layers(kind, 6, 4, size, kernel=kernel))
    assert net(torch.randn(2, 6, *halved_size(size))).shape == (2, 4, *size)
    assert net(torch.randn(2, 6, 11, 3)).shape == (2, 4, 22, 6)


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (3, 5)], ids=str)
@pytest.mark.parametrize("kind", ["shuffle", "residual_shuffle"])
def test_patches_come_apart_and_together(kind: Upsampling, size: tuple[int, int]) -> None:
    small = torch.randn(2, 3, *size)
    coded = UnshuffleConv(3, 8, 4)(small)
    assert coded.shape[2:] == halved_size(halved_size(size))
    assert nn.Sequential(*upsampling_layers(kind, 8, 3, size, factor=4))(coded).shape == small.shape
    exact = UnshuffleConv(3, 48, 4, kernel=1)
    nn.init.dirac_(exact.weight)
    assert exact.bias is not None
    nn.init.zeros_(exact.bias)
    unshuffled = exact(small)
    assert torch.equal(F.pixel_shuffle(unshuffled, 4)[:, :, : size[0], : size[1]], small)
    assert torch.equal(F.pixel_shuffle(unshuffled, 4)[:, :, -1, 0], small[:, :, -1, 0])


# ── Shortcuts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def dc_ae_down(x: Tensor, channels: int) -> Tensor:
    """Reimplement PixelUnshuffleChannelAveragingDownSampleLayer of mit-han-lab/efficientvit."""
    x = F.pixel_unshuffle(x, 2)
    return x.view(x.shape[0], channels, x.shape[1] // channels, *x.shape[2:]).mean(2)


def dc_ae_up(x: Tensor, channels: int) -> Tensor:
    """Reimplement ChannelDuplicatingPixelUnshuffleUpSampleLayer of the same repository."""
    return F.pixel_shuffle(x.repeat_interleave(channels * 4 // x.shape[1], dim=1), 2)


@pytest.mark.parametrize("after", [2, 4, 8, 16])
def test_shortcuts_are_those_of_the_paper_where_channels_divide(after: int) -> None:
    x = torch.randn(2, 4, 8, 6)
    torch.testing.assert_close(ShortcutDown(after, 2)(x), dc_ae_down(x, after))
    torch.testing.assert_close(ShortcutUp(after, (16, 12), 2)(x), dc_ae_up(x, after))


@pytest.mark.parametrize("widths", [(32, 64, 128), (32, 64, 64, 64), (64,), (12, 24), (16, 16)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_stretching_undoes_squeezing_but_for_averages(channels: int, widths: tuple[int, ...]) -> None:
    """The code is the average of each patch for all widths, and is decoded to that average."""
    side = 2 ** len(widths)
    image = torch.rand(2, channels, 2 * side, 2 * side)
    x = image
    for after in widths:
        x = ShortcutDown(after, 2)(x)
    code = ShortcutDown(channels, 1)(x)
    torch.testing.assert_close(code, F.avg_pool2d(image, side))
    y = ShortcutDown(widths[-1], 1)(code)
    sizes = [(2 * 2**level, 2 * 2**level) for level in range(1, len(widths) + 1)]
    for after, size in zip((*reversed(widths[:-1]), channels), sizes, strict=True):
        y = ShortcutUp(after, size, 2)(y)
    torch.testing.assert_close(y, F.interpolate(code, scale_factor=side))


def test_enough_channels_keep_every_pixel() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(ShortcutUp(3, (8, 8), 2)(ShortcutDown(12, 2)(image)), image)
    assert torch.equal(ShortcutUp(3, (8, 8), 4)(ShortcutDown(48, 4)(image)), image)


def test_a_shortcut_fills_only_what_it_carries() -> None:
    x = torch.rand(2, 8, 4, 4)
    filled = ShortcutDown(6, 1, filled=4)(x)
    assert filled[:, :4].abs().min() > 0
    assert not filled[:, 4:].any()
    assert not ShortcutUp(6, (8, 8), 2, filled=2)(x)[:, 2:].any()


@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=str)
def test_layers_beside_a_shortcut_start_quiet_and_are_heard(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 4, *size)
    plain = ShortcutDown(8, 2)
    net = with_shortcut([DownConv(4, 8)], plain)
    assert net(x).shape == (2, 8, *halved_size(size))
    loud = float((net(x) - plain(x)).detach().norm() / plain(x).norm())
    assert 0 < loud < 0.1
    net(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in net.parameters())


def test_the_kinds_are_what_they_are_called() -> None:
    built = {kind: upsampling_layers(kind, 4, 4, (8, 8), pre_layers=[nn.SiLU()]) for kind in KINDS}
    names = {kind: [type(layer) for layer in layers] for kind, layers in built.items()}
    assert names["nearest"] == [nn.SiLU, UpConv]
    assert names["transposed"] == [nn.SiLU, TransposedConv]
    assert names["shuffle"] == [nn.SiLU, ShuffleConv]
    assert names["residual_shuffle"] == [Residual], "the shortcut goes around the activation"
    transposed = built["transposed"][1]
    assert isinstance(transposed, TransposedConv)
    assert (transposed.kernel_size, transposed.stride) == ((4, 4), (2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_he_keeps_the_size_of_a_signal(kind: Upsampling) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64, 32, 32)
    with torch.no_grad():
        out = he_init(nn.Sequential(nn.LeakyReLU(0.2), *upsampling_layers(kind, 64, 64, (64, 64))))(x)
    # `UpConv` has two layers per activation: each scales a signal by √(2 / 1.04), which an activation would undo.
    expected = math.sqrt(2 / 1.04) if kind == "nearest" else 1.0
    rms = float(out[:, :, 8:-8, 8:-8].square().mean().sqrt())
    assert 0.6 * expected < rms < 1.6 * expected


def test_down_halves() -> None:
    assert DownConv(8, 4)(torch.randn(2, 8, 7, 9)).shape[2:] == halved_size((7, 9)) == (4, 5)
    assert DownConv(8, 4, 5)(torch.randn(2, 8, 7, 9)).shape[2:] == (4, 5)
