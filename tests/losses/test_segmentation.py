from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ectype.losses.segmentation import cross_entropy, dice, focal

torch.manual_seed(0)
SCORES = torch.randn(3, 4, 9, 7)
MASK = torch.randint(0, 4, (3, 9, 7))
HOLED = MASK.clone()
HOLED[:, :3] = 255
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("mask", [MASK, HOLED], ids=["all pixels", "with ignored pixels"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["even", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs_of_each_image(
    mask: torch.Tensor, weights: torch.Tensor | None, smoothing: float
) -> None:
    found = cross_entropy(SCORES, mask, weights, smoothing)
    for one, scores, right in zip(found, SCORES, mask, strict=True):
        expected = F.cross_entropy(scores[None], right[None], weights, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(one, expected)


def test_focal_is_cross_entropy_at_gamma_0_and_lets_easy_pixels_go() -> None:
    torch.testing.assert_close(focal(SCORES, HOLED, WEIGHTS, 0.0), cross_entropy(SCORES, HOLED, WEIGHTS))
    sure = 10 * F.one_hot(MASK, 4).movedim(-1, 1).float()
    assert (focal(sure, MASK) < 1e-4 * cross_entropy(sure, MASK)).all()


def test_focal_has_slopes_at_sure_pixels_below_gamma_1() -> None:
    sure = (40 * F.one_hot(MASK, 4).movedim(-1, 1).float()).requires_grad_()
    focal(sure, MASK, gamma=0.5).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_focal_is_its_formula() -> None:
    chance = SCORES.softmax(1).gather(1, MASK[:, None])[:, 0]
    expected = (-((1 - chance) ** 2) * chance.log()).flatten(1).mean(1)
    torch.testing.assert_close(focal(SCORES, MASK), expected)


def test_dice_of_sure_answers_is_that_of_sets() -> None:
    named = torch.randint(0, 3, MASK.shape)
    sure = 1000.0 * F.one_hot(named, 4).movedim(-1, 1).float()
    found = dice(sure, MASK, smooth=1.0)
    for i in range(3):
        each = []
        for k in range(4):
            a, b = named[i] == k, MASK[i] == k
            each.append(1 - float((2 * (a & b).sum() + 1) / (a.sum() + b.sum() + 1)))
        assert float(found[i]) == pytest.approx(sum(each) / 4, rel=1e-5)
    right = 1000.0 * F.one_hot(MASK, 4).movedim(-1, 1).float()
    assert dice(right, MASK).abs().max() < 1e-6


def test_dice_leaves_out_pixels_that_do_not_count() -> None:
    cut = dice(SCORES[:, :, 3:], MASK[:, 3:], WEIGHTS)
    torch.testing.assert_close(dice(SCORES, HOLED, WEIGHTS), cut)


@pytest.mark.parametrize("loss", [cross_entropy, dice, focal])
def test_each_image_is_by_itself_and_slopes_are_numbers(loss) -> None:
    scores = SCORES.clone().requires_grad_()
    mask = HOLED.clone()
    mask[2] = 255
    values = loss(scores, mask)
    torch.testing.assert_close(loss(scores[1:2], mask[1:2]), values[1:2])
    (grad,) = torch.autograd.grad(values.sum(), scores)
    assert grad.isfinite().all()
    assert not grad[:, :, :3].any()
    assert not grad[2].any()
    assert grad[0].any()
    assert float(values[2].detach()) == pytest.approx(0, abs=1e-6)
