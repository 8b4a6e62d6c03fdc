from __future__ import annotations

import numpy as np
import prdc as reference
import pytest
import torch

from ectype.evaluation.metrics import precision_recall
from ectype.evaluation.metrics.precision_recall import nearest_neighbors, prdc


def points(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("chunk", [1, 700, 2**20])
def test_nearest_are_those_of_a_full_table(exclude: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_recall, "MAX_DISTANCES_PER_BLOCK", chunk)
    y = points(60, 5, 1, shift=100.0)
    x = y if exclude else points(40, 5, 2, shift=100.0)
    table = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if exclude:
        table.fill_diagonal_(torch.inf)
    distance, place = table.topk(3, largest=False)
    found = nearest_neighbors(x, y, 3, exclude_self=exclude)
    torch.testing.assert_close(found.distance, distance, atol=1e-6, rtol=0)
    assert torch.equal(found.place, place)


def test_too_few_to_choose_from() -> None:
    with pytest.raises(ValueError, match="there are 4 points to choose from"):
        nearest_neighbors(points(5, 2, 0), points(5, 2, 0), 5, exclude_self=True)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("real, fake", [(80, 80), (120, 50), (50, 120)])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_prdc_is_the_reference_packages(k: int, real: int, fake: int, shift: float, capsys) -> None:
    a, b = points(real, 6, 1), 0.8 * points(fake, 6, 2) + shift
    expected = reference.compute_prdc(a.double().numpy(), b.double().numpy(), nearest_k=k)
    capsys.readouterr()
    found = prdc(a, b, k)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(float(value), abs=1e-12), name


def test_which_images_are_counted() -> None:
    """Two far clusters, of which the samples know one: its images are recalled and covered, the others are not."""
    real = torch.cat([points(30, 4, 1), points(30, 4, 2, shift=50.0)])
    found = prdc(real, points(60, 4, 3), 5)
    assert not found.recalled[30:].any()
    assert not found.covered[30:].any()
    assert found.recalled[:30].double().mean() > 0.6
    assert found.recall == pytest.approx(float(found.recalled.double().mean()))
    assert found.coverage < 0.55
    assert found.precision > 0.6
    assert np.isclose(found.density, float(found.dense.mean()))
