"""Diversity against vendi-score and against sets whose kinds are known."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from vendi_score import vendi as reference

from ectype.core.errors import DataError
from ectype.evaluation.metrics.diversity import BinComparison, fit_bins, ndb, vendi, vendi_ratio


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def clusters(counts: list[int], seed: int) -> torch.Tensor:
    """Return this many points around each of several distant corners of a simplex."""
    centres = 50 * torch.eye(len(counts))
    return centres.repeat_interleave(torch.tensor(counts), 0) + normal(sum(counts), len(counts), seed)


def compared(train: torch.Tensor, real: torch.Tensor, fake: torch.Tensor, k: int = 100) -> BinComparison:
    return ndb(fit_bins(train, len(real), k), real, fake)


@pytest.mark.filterwarnings("ignore:Please import `csr_matrix`")
@pytest.mark.parametrize("n, d", [(40, 7), (20, 20), (12, 50)])
def test_vendi_score_is_vendi_scores(n, d):
    x = normal(n, d).double()
    assert vendi(x) == pytest.approx(reference.score_X(x.numpy()), rel=1e-9)
    assert vendi(x) == pytest.approx(reference.score_dual(x.numpy()), rel=1e-9)
    gaussian = torch.exp(-(torch.cdist(x, x) ** 2) / d)
    assert vendi(x, lambda _: gaussian) == pytest.approx(reference.score_K(gaussian.numpy()), rel=1e-9)


def test_vendi_score_counts_kinds():
    eye = torch.eye(8)
    assert vendi(eye) == pytest.approx(8)
    assert vendi(eye[:4].repeat(5, 1)) == pytest.approx(4)
    assert vendi(3 * eye[:1].repeat(5, 1)) == pytest.approx(1)
    assert vendi(torch.zeros(5, 8)) == pytest.approx(1)
    assert vendi(torch.cat([eye[:3], torch.zeros(1, 8)])) == pytest.approx(4)


def test_vendi_ratio_compares_as_many():
    real, fake = normal(80, 30, 1), normal(40, 30, 2)
    assert vendi_ratio(real, fake) == pytest.approx(vendi(fake) / vendi(real[::2]))
    assert vendi_ratio(real, real) == 1
    narrow = normal(80, 30, 3) * torch.linspace(1, 0, 30) ** 4
    assert vendi_ratio(real, narrow) < 0.7


def test_vendi_score_of_nothing_is_refused():
    with pytest.raises(DataError, match="0 features"):
        vendi(torch.zeros(0, 3))
    with pytest.raises(DataError, match="finite"):
        vendi(torch.full((4, 3), math.nan))


def test_lost_clusters_are_named_by_the_real_images_in_them():
    train, real = clusters([60, 60, 60, 60, 60], 1), clusters([40, 80, 40, 60, 40], 2)
    fake = clusters([100, 0, 100, 2, 100], 3)
    found = compared(train, real, fake, k=5)
    assert found.bins == 5
    assert found.different == 1.0
    members = [(found.real_bins == bin).nonzero()[:, 0].tolist() for bin in found.lost]
    assert members == [list(range(40, 120)), list(range(160, 220))]
    assert found.lost_mass == pytest.approx(140 / 260)
    assert float(found.real_fractions.sum()) == pytest.approx(1)
    assert found.jensen_shannon == pytest.approx(jensenshannon(found.real_fractions, found.fake_fractions) ** 2)


def test_test_of_shares_is_statsmodels_formula_at_its_edge():
    """50 of 100 differs from 64 of 100 (z = 2.00), and does not from 63 of 100 (z = 1.85)."""
    train, real = clusters([50, 50], 1), clusters([50, 50], 2)
    assert compared(train, real, clusters([64, 36], 3), k=2).different == 1
    assert compared(train, real, clusters([63, 37], 3), k=2).different == 0


def test_fresh_images_differ_in_about_one_bin_of_twenty_and_lose_none():
    found = [
        compared(normal(1500, 8, s), normal(1500, 8, s + 1), normal(1500, 8, s + 2), k=50) for s in range(0, 24, 3)
    ]
    assert np.mean([each.different for each in found]) == pytest.approx(0.05, abs=0.025)
    assert [each.lost for each in found] == [[]] * 8


def test_nothing_shared_is_log_two_and_all_lost():
    train, real = clusters([40, 40, 0, 0], 1), clusters([40, 40, 0, 0], 2)
    other = clusters([0, 0, 40, 40], 3)
    found = compared(torch.cat([train, other]), real, other, k=4)
    assert found.jensen_shannon == pytest.approx(math.log(2))
    assert found.lost_mass == pytest.approx(1)


@pytest.mark.parametrize("train, real, bins", [(2000, 300, 30), (250, 3000, 25), (2000, 2000, 100)])
def test_few_images_have_few_bins(train, real, bins):
    assert compared(normal(train, 4), normal(real, 4, 1), normal(50, 4, 2)).bins == bins


def test_identical_training_images_leave_bins_empty_without_complaint():
    found = compared(torch.ones(60, 3), torch.ones(60, 3), torch.ones(60, 3))
    assert (found.different, found.lost, found.jensen_shannon) == (0, [], 0)


def test_too_few_images_for_two_bins_are_refused():
    with pytest.raises(DataError, match="15 real"):
        compared(normal(100, 3), normal(15, 3), normal(100, 3))
    with pytest.raises(DataError, match="0 generated"):
        compared(normal(100, 3), normal(100, 3), normal(0, 3))
