from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ectype.core.random import EpochOrder, SeededStepContext, StepContext, derive_seed


@given(
    length=st.integers(1, 40),
    batch=st.integers(1, 60),
    splits=st.lists(st.integers(1, 59), max_size=4),
    seed=st.integers(0),
)
@settings(deadline=None)
def test_order_depends_on_the_place_alone(length: int, batch: int, splits: list[int], seed: int) -> None:
    whole = EpochOrder(length, seed).take(0, 3 * batch)
    order = EpochOrder(length, seed)
    edges = sorted({0, 3 * batch, *(s for s in splits if s < 3 * batch)})
    parts = [order.take(a, b - a) for a, b in itertools.pairwise(edges)]
    assert torch.equal(torch.cat(parts), whole)
    epochs = whole[: len(whole) // length * length].view(-1, length)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(length).expand_as(epochs))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = EpochOrder(1000, 0)
    assert not torch.equal(order.epoch(0), order.epoch(1))
    assert not torch.equal(order.epoch(0), EpochOrder(1000, 1).epoch(0))


def test_draws_are_sliced_from_the_global_batch() -> None:
    whole = SeededStepContext(1, 640, 10, "model", 0, 16)
    part = whole._replace(start=6)
    assert isinstance(whole, StepContext)
    for name in ("normal", "uniform"):
        drawn = getattr(whole, name)("z", 16, 3, 2)
        assert torch.equal(getattr(part, name)("z", 4, 3, 2), drawn[6:10])
        assert torch.equal(getattr(whole, name)("z", 16, 3, 2), drawn)
        for other in (whole._replace(seen=656), whole._replace(turn="critic"), whole._replace(seed=2)):
            assert not torch.equal(getattr(other, name)("z", 16, 3, 2), drawn)
        assert not torch.equal(getattr(whole, name)("mask", 16, 3, 2), drawn)


def test_seeds_that_are_neighbours_share_nothing() -> None:
    seeds = {derive_seed(seed, place, "z") for seed in range(50) for place in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", "b") != derive_seed("ab", "")
