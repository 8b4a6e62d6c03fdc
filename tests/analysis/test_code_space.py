"""Directions through codes: their variance, their orthogonality, and what samples change along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ectype.analysis.code_space import code_space, noise_space


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_principal_components_come_first_and_the_most_active_dimensions_make_a_second_map() -> None:
    codes = drawn(400, 6) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.1, 0.1]) + 7
    space = code_space(codes)
    assert space.directions[0].abs().argmax() == 1
    assert space.directions[1].abs().argmax() == 3
    assert space.names[-2:] == ["dimension 1", "dimension 3"]
    assert space.maps == [("Principal components", 0, 1), ("Most active dimensions", 5, 6)]
    assert torch.allclose(space.directions.norm(dim=1), torch.ones(7), atol=1e-5)
    assert torch.allclose(space.coordinates(codes).mean(0), torch.zeros(7), atol=1e-3)
    assert torch.allclose(space.coordinates(codes).std(0), space.deviations)
    assert abs(float(space.deviations[0]) - 5) < 0.6


@pytest.mark.parametrize("n, d", [(1, 1), (1, 4), (2, 1), (2, 2), (3, 3), (5, 1), (4, 300)])
def test_few_codes_of_few_dimensions_have_directions_too(n: int, d: int) -> None:
    space = code_space(drawn(n, d))
    assert len(space.names) == len(space.directions) == len(space.deviations)
    assert space.coordinates(drawn(n, d)).isfinite().all()
    assert all(max(x, y) < len(space.names) for _, x, y in space.maps)


def test_codes_that_are_all_equal_have_no_principal_components() -> None:
    space = code_space(torch.ones(10, 4))
    assert [name for name, _, _ in space.maps] == ["Most active dimensions"]
    assert (space.deviations > 0).all()


def test_the_first_direction_of_noise_is_the_one_that_samples_change_along() -> None:
    noise = drawn(1000, 8)
    images = noise[:, 2:3] * torch.linspace(0, 1, 20) + 0.2 * noise[:, 5:6] * torch.linspace(1, 0, 20)
    space = noise_space(noise, images)
    found = space.directions[: len(space.names) - 2]
    assert found[0].abs().argmax() == 2
    assert found[0].abs().max() > 0.97
    assert torch.allclose(found @ found.T, torch.eye(len(found)), atol=1e-4)
    assert space.names[-2:] == ["random 1", "random 2"]


def test_noise_whose_samples_are_all_equal_still_has_random_directions() -> None:
    space = noise_space(drawn(50, 4), torch.zeros(50, 9))
    assert space.names == ["random 1", "random 2"]
    assert space.maps == [("Two random directions", 0, 1)]
