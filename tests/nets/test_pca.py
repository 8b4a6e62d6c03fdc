"""Compares principal components with linear algebra and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ectype.nets.pca import fit_pca


def low_rank(n: int, d: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    scales = torch.linspace(1, 0.2, rank)
    return 0.5 + 0.02 * (torch.randn(n, rank, generator=generator) * scales) @ torch.randn(rank, d, generator=generator)


@pytest.mark.parametrize("n, d", [(300, 64), (40, 64), (60, 2100), (1100, 2100)])
def test_pca_leaves_what_the_best_subspace_leaves(n, d):
    images = low_rank(n, d, 30)
    fitted = fit_pca(images, 12)
    left = ((fitted.encode(images.view(n, 1, 1, d)) @ fitted.components + fitted.mean - images) ** 2).sum()
    values = torch.linalg.svdvals(images.double() - images.double().mean(0))
    assert left.item() == pytest.approx((values[12:] ** 2).sum().item(), rel=5e-3)
    np.testing.assert_allclose(fitted.stds, values[:12] / (n - 1) ** 0.5, rtol=5e-3)


def test_pca_reconstructs_as_scikit_learn_does_and_clamps():
    images = low_rank(200, 48, 20)
    fitted = fit_pca(images, 5)
    reference = PCA(5, svd_solver="full").fit(images.double().numpy())
    expected = reference.inverse_transform(reference.transform(images.double().numpy())).clip(0, 1)
    found = fitted.reconstruct(images.view(200, 3, 4, 4))
    np.testing.assert_allclose(found.flatten(1), expected, atol=1e-4)
    assert fitted.reconstruct(5 * images.view(200, 3, 4, 4)).max() == 1


@pytest.mark.parametrize("components", [10, 11])
def test_as_many_components_as_images_or_numbers_are_refused(components):
    with pytest.raises(ValueError, match="smaller than both"):
        fit_pca(torch.rand(10, 30), components)
    with pytest.raises(ValueError, match="smaller than both"):
        fit_pca(torch.rand(30, 10), components)
