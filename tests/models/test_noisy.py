from __future__ import annotations

import pytest
import torch

from ectype.core.errors import ModelError
from ectype.models.bottlenecks import BottleneckConfig


def test_noise_on_codes_is_as_strong_as_it_says_and_only_in_training() -> None:
    bottleneck = BottleneckConfig.model_validate({"kind": "noisy", "tau": 0.5}).build((16, 8, 8))
    features = 3 + 5 * torch.randn(400, 16, 8, 8)
    code = bottleneck.code(features)
    torch.testing.assert_close(code.mean(1), torch.zeros(400, 8, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(code.var(1, unbiased=False), torch.ones(400, 8, 8), atol=1e-4, rtol=0)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    added = (bottleneck.train()(features, noise).code - code).flatten(1)
    # σ ~ |N(0, τ²)|: its mean square is τ², its mean τ √(2/π).
    assert float((added**2).mean().sqrt()) == pytest.approx(0.5, rel=0.08)
    assert float(added.std(1).mean()) == pytest.approx(0.5 * (2 / torch.pi) ** 0.5, rel=0.08)
    assert torch.equal(bottleneck.eval()(features, noise).code, code)
    with pytest.raises(ModelError, match="at least 2"):
        BottleneckConfig.model_validate({"kind": "noisy"}).build((1, 8, 8))
