"""Metrics of codes, on codes whose answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ectype.evaluation.code_figures import codebook_figures
from ectype.evaluation.metrics.codes import (
    active_units,
    effective_rank,
    linear_probe,
    singular_values,
)
from ectype.evaluation.metrics.intervals import wilson_interval
from tests.evaluation.test_evaluate import judged


def with_singular_values(values: list[float], n: int = 200, d: int | None = None, seed: int = 0) -> torch.Tensor:
    """Centred codes whose singular values are these, in directions of no special kind."""
    generator = torch.Generator().manual_seed(seed)
    k, d = len(values), d or len(values)
    left = torch.randn(n, k, generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64)).Q
    return (left * torch.tensor(values, dtype=torch.float64)) @ right.T


def test_even_directions_count_fully():
    assert effective_rank(with_singular_values([2.0] * 7, d=12)) == pytest.approx(7)


def test_uneven_directions_follow_the_entropy_of_singular_values_not_variances():
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(with_singular_values([3.0, 1.0], d=5)) == pytest.approx(expected)


def test_effective_rank_ignores_offset_scale_and_rotation():
    codes = with_singular_values([5.0, 2.0, 1.0], d=6)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).Q
    assert effective_rank(0.01 * codes @ rotation + 4) == pytest.approx(effective_rank(codes), rel=1e-6)


def test_constant_numbers_are_no_direction():
    codes = torch.cat([with_singular_values([1.0, 1.0]).float(), torch.full((200, 3), 1234.567)], dim=1)
    assert effective_rank(codes) == pytest.approx(2, rel=1e-4)
    assert effective_rank(torch.full((50, 4), 0.1)) == 0


def test_fewer_codes_than_numbers_bound_the_rank():
    codes = torch.randn(10, 500, generator=torch.Generator().manual_seed(4))
    assert 8 < effective_rank(codes) <= 9


def test_singular_values_are_of_the_centred_codes():
    codes = with_singular_values([4.0, 2.0, 0.5], d=3) + 100
    np.testing.assert_allclose(singular_values(codes), [4.0, 2.0, 0.5], rtol=1e-6)


def test_active_units_have_a_variance_above_a_hundredth():
    z = torch.randn(5000, 4, generator=torch.Generator().manual_seed(5))
    z = (z - z.mean(0)) / z.std(0)
    assert active_units(z * torch.tensor([1.0, 0.11, 0.09, 0.0]) + 7) == 2


def test_probe_equals_scikit_learn_on_digits():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    probe = linear_probe(x[:1200], y[:1200], x[1200:], y[1200:])
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(images[:1200], labels[:1200])
    assert probe.accuracy == pytest.approx(reference.score(images[1200:], labels[1200:]), abs=0.005)
    assert "64 features, 1,200 training images" in probe.note


def test_probe_on_noise_is_no_better_than_guessing():
    generator = torch.Generator().manual_seed(6)
    x, y = (torch.randn(2000, 5, generator=generator), torch.randint(0, 4, (2000,), generator=generator))
    assert linear_probe(x[:1000], y[:1000], x[1000:], y[1000:]).accuracy == pytest.approx(0.25, abs=0.06)


def test_probe_on_many_features_reduces_them_and_says_so():
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(120) % 2
    x = torch.randn(120, 1500, generator=generator) + 3 * y[:, None]
    probe = linear_probe(x[:80], y[:80], x[80:], y[80:])
    assert probe.accuracy == 1
    assert "1,500 features reduced to 79 principal components" in probe.note


def test_probe_needs_two_classes():
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(torch.rand(9, 2), torch.zeros(9).long(), torch.rand(3, 2), torch.zeros(3).long())


def test_wilson_interval_of_known_cases():
    assert wilson_interval(0.5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-4)
    assert wilson_interval(1.0, 20) == pytest.approx((0.83887, 1.0), abs=1e-4)
    assert wilson_interval(0.0, 20)[0] == 0


def test_use_of_a_codebook_is_counted_over_all_images_and_indices():
    indices = torch.tensor([[[0, 0], [7, 7]], [[0, 0], [7, 9]]])  # shares 4/8, 3/8, 1/8
    usage, perplexity, bits = codebook_figures(indices, 16, 48)
    assert usage.value == 3 / 16
    assert usage.baselines == {"max_possible": 0.5}
    entropy = -sum(share * math.log2(share) for share in (4 / 8, 3 / 8, 1 / 8))
    assert perplexity.value == pytest.approx(2**entropy)
    assert bits.value == 4 * 4
    assert bits.baselines == {"entropy_bits": pytest.approx(4 * entropy), "raw_bits": 8 * 48}
    assert "2 images of 4 indices each, of 16 values" in usage.note
    assert {figure.group for figure in (usage, perplexity, bits)} == {"codes"}


def test_a_codebook_too_large_to_be_counted_out_is_no_trouble():
    indices = torch.tensor([[0, 2**62 - 1], [5, 5]])
    usage, perplexity, bits = codebook_figures(indices, 2**62, 12)
    assert usage.value == 3 / 2**62
    assert perplexity.value == pytest.approx(math.exp(1.5 * math.log(2)))
    assert bits.value == 2 * 62


@pytest.mark.parametrize(
    "bottleneck, size",
    [
        ("{kind: vq, codes: 32}", 32),
        ("{kind: fsq, levels: [4, 3, 3]}", 36),
        ("{kind: fsq, levels: [256, 256, 256]}", 2**24),
    ],
)
def test_a_model_that_quantises_is_evaluated_for_it(bottleneck: str, size: int):
    found = judged("vqvae", 40, **{"data.size": 8, "width": 8, "latent": "[3, 4, 4]", "model.bottleneck": bottleneck})
    assert found["bits_per_code"].value == pytest.approx(16 * math.log2(size))
    assert 0 < found["codebook_usage"].value <= found["codebook_usage"].baselines["max_possible"]
    assert 1 <= found["code_perplexity"].value <= size
    assert found["code_perplexity"].n == 40
