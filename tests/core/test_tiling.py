from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ectype.core.tiling import apply_in_tiles

SIZES = [(197, 233), (513, 300), (1024, 31), (64, 64), (65, 64), (10, 200), (1, 1), (1, 90)]


def image(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def jump(made: Tensor) -> float:
    """The largest difference between neighbouring pixels."""
    return max(float(made.diff(dim=dim).abs().max()) for dim in (1, 2) if made.shape[dim] > 1)


class Offsets:
    """Each tile becomes a constant of its own, 0 and 1 in turns."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, tile: Tensor) -> Tensor:
        value = (torch.arange(self.seen, self.seen + len(tile)) % 2).float()
        self.seen += len(tile)
        return value.view(-1, 1, 1, 1).expand(-1, 1, *tile.shape[2:])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("size", SIZES)
def test_what_changes_nothing_gives_the_image_back(size: tuple[int, int], overlap: float) -> None:
    given = image(3, *size)
    back = apply_in_tiles(lambda tile: tile, given, (64, 48), overlap=overlap)
    assert back.shape == given.shape
    torch.testing.assert_close(back, given, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.floats(0, 0.95),
    st.integers(1, 7),
)
def test_any_size_comes_back_as_it_was(
    size: tuple[int, int], tile: tuple[int, int], overlap: float, at_once: int
) -> None:
    shapes = []

    def note(tiles: Tensor) -> Tensor:
        shapes.append(tuple(tiles.shape))
        return tiles

    given = image(2, *size)
    torch.testing.assert_close(
        apply_in_tiles(note, given, tile, overlap=overlap, batch_size=at_once), given, rtol=0, atol=1e-6
    )
    assert {shape[1:] for shape in shapes} == {(2, *tile)}
    assert max(shape[0] for shape in shapes) <= at_once


@pytest.mark.parametrize("size", [(197, 233), (513, 300), (1024, 31), (100, 100)])
def test_tiles_that_disagree_fade_into_each_other(size: tuple[int, int]) -> None:
    given = image(3, *size)
    for overlap in (0.25, 0.5):
        smooth = apply_in_tiles(Offsets(), given, (64, 64), overlap=overlap)
        assert smooth.min() >= 0
        assert smooth.max() <= 1
        assert smooth.std() > 0.05, "the tiles do disagree"
        # A fade from 0 to 1 over so many pixels, at most 2.5 times as steep as a straight one.
        assert jump(smooth) < 2.5 / (overlap * 64)


def test_without_overlap_the_seams_are_there() -> None:
    assert jump(apply_in_tiles(Offsets(), image(3, 128, 192), (64, 64), overlap=0)) == 1


def test_tiles_overlap_as_asked_and_no_more_than_they_must() -> None:
    ramp = torch.arange(1000.0).expand(1, 64, -1)
    starts: list[int] = []

    def note(tiles: Tensor) -> Tensor:
        starts.extend(tiles[:, 0, 0, 0].int().tolist())
        return tiles

    apply_in_tiles(note, ramp, (64, 64), overlap=0.25)
    steps = [after - before for before, after in pairwise(starts)]
    assert starts[0] == 0
    assert starts[-1] == 1000 - 64
    assert max(steps) <= 48
    assert len(starts) == 21  # (1000 − 64) / 48, rounded up, and the first


def test_a_short_side_is_mirrored_on() -> None:
    given = image(1, 40, 70)
    seen: list[Tensor] = []

    def note(tiles: Tensor) -> Tensor:
        seen.append(tiles)
        return tiles

    apply_in_tiles(note, given, (64, 64))
    first = seen[0][0, 0]
    assert torch.equal(first[12:52], given[0, :, :64])
    assert torch.equal(first[:12], given[0, 1:13, :64].flip(0))
    assert torch.equal(first[52:], given[0, 27:39, :64].flip(0))


def test_bytes_may_go_in_and_other_channels_come_out() -> None:
    pixels = (255 * image(3, 90, 80)).to(torch.uint8)

    def double(tiles: Tensor) -> Tensor:
        assert tiles.dtype == torch.uint8
        return (tiles.double() / 255).mean(1, keepdim=True).repeat(1, 5, 1, 1)

    made = apply_in_tiles(double, pixels, (32, 32))
    assert made.shape == (5, 90, 80)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made[4], pixels.float().mean(0) / 255, rtol=0, atol=1e-6)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap=1 must be"):
        apply_in_tiles(lambda tile: tile, image(1, 9, 9), (4, 4), overlap=1)
    with pytest.raises(ValueError, match="needs the same size"):
        apply_in_tiles(lambda tile: tile[..., ::2], image(1, 9, 9), (4, 4))
