from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import mannwhitneyu

from ectype.evaluation.metrics.memorization import Authenticity, _rank_test, closer_to_train, duplicates


def points(n: int, seed: int, d: int = 8) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def few_different(n: int, support: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    kinds = points(support, seed + 1000)
    return kinds[torch.randint(support, (n,), generator=generator)]


def test_real_images_hardly_repeat() -> None:
    found = [duplicates(points(1000, i), points(1000, 50 + i)) for i in range(8)]
    assert sum(one.rate for one in found) / len(found) < 0.02


@pytest.mark.parametrize("support", [50, 200, 1000])
def test_the_birthday_estimate_finds_how_many_kinds_there_are(support: int) -> None:
    """n(n − 1) / 2 ÷ pairs is meant for the few collisions of a small sample."""
    n = int(math.sqrt(support) * 1.2)
    estimates = [duplicates(points(n, 7), few_different(n, support, seed)).birthday_estimate for seed in range(60)]
    finite = [1 / each for each in estimates]
    assert support / 2.5 < len(finite) / sum(finite) < 2.5 * support


def test_the_closest_pairs_come_first_and_once() -> None:
    fake = points(50, 3)
    fake[11], fake[40] = fake[5], fake[20] + 1e-4
    pairs = duplicates(points(50, 4), fake).pairs.tolist()
    assert pairs[:2] == [[5, 11], [20, 40]]
    assert len({tuple(pair) for pair in pairs}) == len(pairs)


def test_authenticity_is_above_a_half_for_fresh_and_none_for_copies() -> None:
    """Of a fresh point and its nearest, each is as likely to be the lonelier one, and fresh ones are not searched."""
    train = points(2000, 1)
    judge = Authenticity(train)
    assert 0.5 < judge(points(2000, 2)) < 0.75
    assert judge(train + 1e-3) == 0


def test_fresh_samples_are_not_blamed() -> None:
    """The test's size: z of fresh samples is standard normal over sets of images, few held-out ones or many."""
    for held_out in (40, 400):
        z = torch.tensor(
            [
                closer_to_train(points(400, 3 * i), points(held_out, 3 * i + 1), points(300, 3 * i + 2), seed=i).z
                for i in range(1, 120)
            ]
        )
        assert abs(float(z.mean())) < 0.3
        assert 0.75 < float(z.std()) < 1.25
        assert float((z > 3).double().mean()) < 0.03


@pytest.mark.parametrize("held_out", [40, 400])
def test_copies_are_found_and_shown_with_their_originals(held_out: int) -> None:
    train, test = points(400, 1), points(held_out, 2)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(400, (300,), generator=generator)
    found = closer_to_train(train, test, train[chosen] + 0.05 * points(300, 3), seed=0)
    assert found.z > 4
    assert found.auc > 0.65  # not every training image has a copy
    assert found.fraction > (0.5 if held_out == 40 else 0.9)
    assert torch.equal(found.nearest, chosen[found.sample])


def test_samples_that_are_merely_too_alike_are_not_called_copies() -> None:
    """Drawn in to the middle of the data: near training and held-out images alike (arXiv 2306.04675)."""
    z = [closer_to_train(points(400, i), points(400, 100 + i), 0.3 * points(300, 200 + i), seed=i).z for i in range(30)]
    assert sum(each > 3 for each in z) <= 1


def test_ranks_are_those_of_scipy() -> None:
    """With equal distances too."""
    generator = torch.Generator().manual_seed(0)
    train, held_out = (torch.randint(12, (n,), generator=generator).float() for n in (70, 31))
    told, z = _rank_test(train, held_out)
    expected = mannwhitneyu(held_out.numpy(), train.numpy()).statistic / (70 * 31)
    assert told == pytest.approx(expected)
    assert z == pytest.approx((expected - 0.5) / math.sqrt((70 + 31 + 1) / (12 * 70 * 31)))
