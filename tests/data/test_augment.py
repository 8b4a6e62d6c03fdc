"""Augmentation: what it changes, and what it must not change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ectype.config.schema import Augment
from ectype.data.augment import augment

images = torch.rand(64, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_is_nothing_done(context):
    assert augment(images, Augment(), context) is images
    assert context.uses == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    flip=st.booleans(),
    crop=st.floats(0, 0.49),
    shift=st.floats(0, 0.49),
    colour=st.floats(0, 1),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
)
def test_shape_and_range_are_kept(context, flip, crop, shift, colour, channels, size):
    image = torch.rand(5, channels, *size)
    out = augment(image, Augment(flip=flip, crop=crop, shift=shift, colour=colour), context)
    assert out.shape == image.shape
    assert out.min() >= 0
    assert out.max() <= 1


def test_flip_turns_about_half_and_changes_nothing_else(context):
    out = augment(images, Augment(flip=True), context)
    same = (out == images).flatten(1).all(1)
    turned = (out == images.flip(3)).flatten(1).all(1)
    assert (same ^ turned).all()
    assert 16 < turned.sum() < 48


def test_shift_moves_whole_pixels_and_mirrors_the_border(context):
    out = augment(images, Augment(shift=0.25), context)
    seen = set()
    for one, before in zip(out, images, strict=True):
        padded = torch.nn.functional.pad(before[None], (2, 2, 3, 3), mode="reflect")[0]
        fits = [
            (y - 3, x - 2) for y in range(7) for x in range(5) if torch.equal(padded[:, y : y + 12, x : x + 10], one)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert {y for y, _ in seen} == set(range(-3, 4))
    assert {x for _, x in seen} == set(range(-2, 3))


def test_crop_shows_a_window_inside_the_image(context):
    # A crop of a ramp is a ramp: its slope is the zoom factor, and its ends lie within the original's.
    ramp = ((torch.arange(40) + 0.5) / 40).expand(64, 1, 40, 40)
    out = augment(ramp, Augment(crop=0.4), context)
    inner = out[:, 0, :, 2:-2]
    slope = inner.diff(dim=2) * 40
    assert (slope.std(2) < 1e-3).all()
    assert slope.min() > 0.6 - 1e-3
    assert slope.max() <= 1 + 1e-3
    assert slope[:, 0, 0].std() > 0.05
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out), atol=1e-5, rtol=0)


def test_colour_of_grey_images_is_light_and_contrast_only(context):
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.5 + 0.2
    out = augment(grey, Augment(colour=0.1), context)
    torch.testing.assert_close(out[:, 0], out[:, 1])
    torch.testing.assert_close(out[:, 0], out[:, 2])
    light = out.mean((1, 2, 3)) / grey.mean((1, 2, 3))
    assert light.min() >= 0.9 - 1e-5
    assert light.max() <= 1.1 + 1e-5
    assert light.std() > 0.02


def test_each_image_has_its_own_draw_and_the_same_moment_the_same(context):
    same = images[:1].expand(16, -1, -1, -1)
    config = Augment(flip=True, crop=0.3, shift=0.2, colour=0.3)
    out = augment(same, config, context)
    assert len(torch.unique(out.flatten(1), dim=0)) == 16
    torch.testing.assert_close(augment(same, config, context), out, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["flip", "crop", "shift", "colour"])
def test_draws_are_one_for_each_image_of_the_micro_batch(context, name):
    """An image's augmentation depends on its own draws only, not on its neighbors in the batch."""

    class Sliced:
        seen = step = 0

        def __init__(self, part: slice) -> None:
            self.part = part

        def uniform(self, use: str, *shape: int) -> torch.Tensor:
            return context.uniform(use, 64, *shape[1:])[self.part]

        def normal(self, use: str, *shape: int) -> torch.Tensor:
            raise AssertionError

    config = Augment(**{name: True if name == "flip" else 0.3})
    whole = augment(images, config, context)
    parts = [augment(images[part], config, Sliced(part)) for part in (slice(0, 20), slice(20, 64))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)
