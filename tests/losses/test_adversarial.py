from __future__ import annotations

import math

import pytest
import torch

from ectype.losses.adversarial import ADVERSARIAL_LOSSES, squared_gradient_norm

REAL, FAKE = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-0.5, 1.5, 0.0])


def log1pexp(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


PAIRS = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
EXPECTED = {
    "relativistic": (mean([log1pexp(-(r - f)) for r, f in PAIRS]), mean([log1pexp(-(f - r)) for r, f in PAIRS])),
    "non_saturating": (
        mean([log1pexp(-r) for r, _ in PAIRS]) + mean([log1pexp(f) for _, f in PAIRS]),
        mean([log1pexp(-f) for _, f in PAIRS]),
    ),
    "hinge": (
        mean([max(0, 1 - r) for r, _ in PAIRS]) + mean([max(0, 1 + f) for _, f in PAIRS]),
        -mean([f for _, f in PAIRS]),
    ),
    "least_squares": (
        0.5 * mean([(r - 1) ** 2 for r, _ in PAIRS]) + 0.5 * mean([f**2 for _, f in PAIRS]),
        0.5 * mean([(f - 1) ** 2 for _, f in PAIRS]),
    ),
    "wasserstein": (mean([f for _, f in PAIRS]) - mean([r for r, _ in PAIRS]), -mean([f for _, f in PAIRS])),
}


def test_every_game_has_an_expectation() -> None:
    assert EXPECTED.keys() == ADVERSARIAL_LOSSES.keys()


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_losses_are_those_of_the_papers(name: str) -> None:
    critic, generator = EXPECTED[name]
    assert float(ADVERSARIAL_LOSSES[name].critic(REAL, FAKE)) == pytest.approx(critic, abs=1e-6)
    assert float(ADVERSARIAL_LOSSES[name].generator(FAKE, REAL)) == pytest.approx(generator, abs=1e-6)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_players_pull_scores_where_they_should(name: str) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    of_real, of_fake = torch.autograd.grad(ADVERSARIAL_LOSSES[name].critic(real, fake), [real, fake])
    if name != "least_squares":
        assert (of_real <= 0).all()
        assert (of_fake >= 0).all()
    (grad,) = torch.autograd.grad(ADVERSARIAL_LOSSES[name].generator(fake, real), [fake])
    if name != "least_squares":
        assert (grad < 0).all()
    else:
        assert torch.equal(grad.sign(), (fake.detach() - 1).sign())


def test_the_slope_of_a_known_critic() -> None:
    """D(x) = w·x has ‖w‖², D(x) = ½‖x‖² has ‖x‖², both summed over channels and pixels."""
    image = torch.randn(5, 3, 4, 4, requires_grad=True)
    weight = torch.randn(48)
    torch.testing.assert_close(squared_gradient_norm(image.flatten(1) @ weight, image), weight.square().sum().expand(5))
    found = squared_gradient_norm(0.5 * image.square().flatten(1).sum(1), image)
    torch.testing.assert_close(found, image.square().flatten(1).sum(1))
    (again,) = torch.autograd.grad(found.sum(), image)
    torch.testing.assert_close(again, 2 * image)


def test_the_slope_of_packed_images_is_of_the_whole_pack() -> None:
    image = torch.randn(6, 1, 2, 2, requires_grad=True)
    scores = 0.5 * image.reshape(3, -1).square().sum(1)
    torch.testing.assert_close(squared_gradient_norm(scores, image, 2), image.reshape(3, -1).square().sum(1))
