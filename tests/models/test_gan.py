from __future__ import annotations

import pytest
import torch

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError
from ectype.models.base import LatentSampler, Samples, is_conditional
from ectype.models.gan import Generator, GeneratorModelConfig
from ectype.models.noise_to_image import truncated_normal

INFO = DataInfo(3, (8, 10), classes=("cat", "dog", "owl"), frequencies=(0.7, 0.2, 0.1))
NET = {"kind": "mlp", "hidden": [16]}


def build(**keys) -> Generator:
    torch.manual_seed(0)
    return GeneratorModelConfig.model_validate({"latent_dim": 5, "net": NET, **keys}).build(INFO)


@pytest.mark.parametrize("output", ["linear", "tanh"])
@pytest.mark.parametrize("condition", ["none", "concat", "embedding"])
def test_samples_are_images(output: str, condition: str) -> None:
    model = build(output=output, condition=condition)
    assert isinstance(model, Samples)
    assert isinstance(model, LatentSampler)
    assert is_conditional(model) == (condition != "none")
    with torch.no_grad():
        one = model.sample(6, generator=torch.Generator().manual_seed(1))
        two = model.sample(6, generator=torch.Generator().manual_seed(1))
    assert one.shape == (6, 3, 8, 10)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert torch.equal(one, two)


def test_labels_nobody_asked_for_follow_the_data() -> None:
    labels = build(condition="concat").sample_labels(20_000, generator=torch.Generator().manual_seed(0))
    frequencies = torch.bincount(labels, minlength=3) / len(labels)
    torch.testing.assert_close(frequencies, torch.tensor(INFO.frequencies), atol=0.015, rtol=0)


@pytest.mark.parametrize("condition", ["concat", "embedding"])
def test_the_label_changes_the_image(condition: str) -> None:
    model = build(condition=condition)
    latent = model.sample_latents(4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = [model.render(latent, label=torch.full((4,), label)) for label in range(3)]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


def test_wrong_use_of_labels_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="needs a label"):
        build(condition="concat").render(torch.zeros(1, 5))
    with pytest.raises(ModelError, match="leave the label out"):
        build().sample(1, label=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ModelError, match="one folder per class"):
        GeneratorModelConfig.model_validate({"condition": "concat"}).build(DataInfo(1, (8, 8)))


def test_truncation_cuts_the_tails_and_keeps_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = truncated_normal((4000, 5), 0.7, generator)
    assert float(drawn.abs().max()) <= 0.7
    # Standard deviation of N(0, 1) truncated to ±a: the root of 1 − 2a·φ(a) / (2Φ(a) − 1).
    assert float(drawn.std()) == pytest.approx(0.3910, abs=0.005)
    assert float(build().sample_latents(9, truncation=0.1).abs().max()) <= 0.1
