from __future__ import annotations

import pytest
import torch

from ectype.evaluation.metrics.output_variance import OutputVariance, detail_energy, detail_ratio


def test_variance_is_that_of_all_images_at_once() -> None:
    targets = torch.rand(57, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    outputs = 0.3 * targets + 0.2
    variance = OutputVariance()
    for batch in torch.arange(57).split(13):
        variance.update(outputs[batch], targets[batch])
    found = variance.ratio()
    assert found is not None
    of = [float(images.flatten(1).double().var(0).sum()) for images in (outputs, targets)]
    assert found.value == pytest.approx(of[0] / of[1], rel=1e-6)
    assert found.value == pytest.approx(0.09, rel=1e-5)
    assert found.low <= found.value <= found.high
    assert found.n == 57


def test_outputs_that_are_one_image_do_not_vary() -> None:
    targets = torch.rand(40, 1, 4, 4)
    variance = OutputVariance()
    variance.update(torch.full_like(targets, 0.4), targets)
    found = variance.ratio()
    assert found is not None
    assert found.value == pytest.approx(0, abs=1e-9)


def test_too_few_images_have_no_figure() -> None:
    variance = OutputVariance()
    variance.update(torch.rand(12, 1, 4, 4), torch.rand(12, 1, 4, 4))
    assert variance.ratio() is None
    assert OutputVariance().ratio() is None
    assert detail_ratio(torch.rand(5), torch.rand(5)) is None


def test_detail_is_lost_by_blur_and_kept_by_what_is_sharp() -> None:
    from ectype.models.degradations import blur

    image = (torch.rand(40, 1, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    image = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    soft = blur(image, torch.full((40,), 1.5))
    lost, kept = (detail_ratio(detail_energy(outputs), detail_energy(image)) for outputs in (soft, image))
    assert lost is not None
    assert kept is not None
    assert lost.value < 0.15
    assert kept.value == 1
    assert detail_ratio(detail_energy(image), torch.zeros(40)) is None
