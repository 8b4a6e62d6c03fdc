from __future__ import annotations

import pytest
import torch

from ectype.measure.variety import Variance, detail, detail_figure


def test_variance_is_that_of_all_images_at_once() -> None:
    wanted = torch.rand(57, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    made = 0.3 * wanted + 0.2
    seen = Variance()
    for some in torch.arange(57).split(13):
        seen.see(made[some], wanted[some])
    figure = seen.figure()
    assert figure is not None
    of = [float(images.flatten(1).double().var(0).sum()) for images in (made, wanted)]
    assert figure.value == pytest.approx(of[0] / of[1], rel=1e-6)
    assert figure.value == pytest.approx(0.09, rel=1e-5)
    assert figure.low is not None
    assert figure.low <= figure.value <= figure.high
    assert figure.n == 57


def test_outputs_that_are_one_image_do_not_vary() -> None:
    wanted = torch.rand(40, 1, 4, 4)
    seen = Variance()
    seen.see(torch.full_like(wanted, 0.4), wanted)
    figure = seen.figure()
    assert figure is not None
    assert figure.value == pytest.approx(0, abs=1e-9)


def test_too_few_images_have_no_figure() -> None:
    seen = Variance()
    seen.see(torch.rand(12, 1, 4, 4), torch.rand(12, 1, 4, 4))
    assert seen.figure() is None
    assert Variance().figure() is None
    assert detail_figure(torch.rand(5), torch.rand(5), "reconstruction") is None


def test_detail_is_lost_by_blur_and_kept_by_what_is_sharp() -> None:
    from ectype.models.degradations import blur

    image = (torch.rand(40, 1, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    image = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    soft = blur(image, torch.full((40,), 1.5))
    lost, kept = (detail_figure(detail(made), detail(image), "reconstruction") for made in (soft, image))
    assert lost is not None
    assert kept is not None
    assert lost.value < 0.15
    assert kept.value == 1
    assert detail_figure(detail(image), torch.zeros(40), "reconstruction") is None
