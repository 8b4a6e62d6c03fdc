"""The rules of the headline: which figures are shown, and which sentence is written."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from rich.console import Console

from ectype.analysis.diagnose.finding import Advice, Finding
from ectype.analysis.headline import (
    MAX_BASELINES,
    MAX_FIGURES,
    headline_figures,
    headline_sentence,
    headline_table,
)
from ectype.evaluation.figures import Evaluation, Figure

REAL = {"real_images": 0.9}
ADVICE = [Advice("a larger latent", "", {}), Advice("something else", "", {})]


def figure(key: str, value: float, group: str = "generation", better: str | None = "higher", **more: Any) -> Figure:
    settings: dict[str, Any] = {"low": value - 0.1, "high": value + 0.1, "n": 100, **more}
    return Figure(key, value, group, better=better, **settings)  # type: ignore[arg-type]


def evaluation(*figures: Figure, density: str = "none", **more: Any) -> Evaluation:
    settings: dict[str, Any] = {"series": {}, "cases": {}, "remarks": [], **more}
    return Evaluation(density, 1000, 784, 16, 500, 100, 0, list(figures), **settings)


def psnr(value: float, group: str = "reconstruction", **baselines: float) -> Figure:
    return figure("psnr", value, group, unit="dB", baselines=baselines)


def gap(value: float) -> Figure:
    return figure("psnr_above_pca", value, "reconstruction", unit="dB")


def distance(value: float) -> Figure:
    return figure("fd_pixels", value, better="lower", baselines={"reconstructions": 2.0, "real_images": 0.9})


AUTOENCODER = evaluation(psnr(19.0, mean_image=10.0, pca_16=18.0), gap(1.0))
WORSE_THAN_PCA = evaluation(psnr(18.0, mean_image=10.0, pca_16=21.3), gap(-3.3))
GENERATOR = evaluation(distance(1.2), density="implicit")


def finding(severity: Any, headline: str = "the latent is too small", name: str = "x", **more: Any) -> Finding:
    return Finding(name, severity, "a long message", [], ADVICE, headline=headline, **more)


def many_figures(density: str) -> Evaluation:
    samples = [figure(key, 0.5, baselines=REAL) for key in ("precision", "recall", "coverage", "coverage_pixels")]
    samples += [figure(key, 0.5, better="lower", baselines=REAL) for key in ("duplicates", "ndb", "sliced_wasserstein")]
    return evaluation(
        figure("mse", 0.0012, "reconstruction", "lower", baselines={"mean_image": 0.1, "pca_16": 0.002}),
        psnr(19.123, mean_image=10.0, nearest_training_image=15.0, downscaled_48=17.0, pca_16=18.1),
        figure("ssim", 0.81, "reconstruction", baselines={"mean_image": 0.2, "downscaled_48": 0.6, "pca_16": 0.8}),
        gap(1.0),
        figure("output_variance", 0.9, "reconstruction", None),
        figure("effective_rank", 12.0, "codes", None, baselines={"code_dimensions": 16.0}),
        figure("codebook_usage", 0.7, "codes", None, baselines={"max_possible": 1.0}),
        figure("linear_probe_accuracy", 0.9, "codes", baselines={"probe_on_pixels": 0.95, "most_frequent_class": 0.1}),
        distance(123_456.7),
        *samples,
        figure("membership_auc", 0.51, better=None, baselines={"real_images": 0.5}),
        density=density,
    )


def test_an_autoencoder_is_judged_by_reconstructions_and_then_by_samples() -> None:
    keys = [each.key for each in headline_figures(many_figures("none"))]
    assert keys[:5] == ["psnr", "ssim", "codebook_usage", "linear_probe_accuracy", "fd_pixels"]
    assert len(keys) == MAX_FIGURES


def test_a_generator_is_judged_by_its_samples() -> None:
    found = headline_figures(many_figures("implicit"))
    expected = ["fd_pixels", "precision", "recall", "coverage", "duplicates", "ndb", "membership_auc"]
    assert [each.key for each in found] == [*expected, "sliced_wasserstein"]
    assert {each.key: each.better for each in found}["membership_auc"] == "lower"


def test_a_translator_is_judged_by_its_outputs() -> None:
    masks = evaluation(
        figure("pixel_accuracy", 0.9, "masks", baselines={"one_class": 0.5}),
        figure("mean_dice", 0.8, "masks", baselines={"one_class": 0.3}),
        figure("dice_cat", 0.7, "masks"),
    )
    assert [each.key for each in headline_figures(masks)] == ["mean_dice", "pixel_accuracy"]
    pictures = evaluation(
        figure("l1", 0.1, "pictures", "lower", baselines={"input": 0.2}),
        psnr(25.0, "pictures", input=20.0),
        figure("perceptual_distance_vgg16", 0.1, "pictures", "lower", baselines={"input": 0.2}),
    )
    assert [each.key for each in headline_figures(pictures)] == ["psnr", "perceptual_distance_vgg16", "l1"]


@pytest.mark.parametrize("density", ["none", "implicit"])
def test_every_headline_figure_has_a_direction_and_few_baselines(density: str) -> None:
    for each in headline_figures(many_figures(density)):
        assert each.better in ("lower", "higher")
        assert 1 <= len(each.baselines) <= MAX_BASELINES


def test_pca_of_larger_codes_is_no_baseline_of_the_headline() -> None:
    error = psnr(19.0, pca_16=18.0, pca_32=20.0, pca_64=25.0, mean_image=10.0)
    (shown,) = headline_figures(evaluation(error))
    assert list(shown.baselines) == ["pca_16", "mean_image"]


@pytest.mark.parametrize("density", ["none", "implicit"])
def test_the_table_fits_80_columns(density: str) -> None:
    console = Console(width=80, record=True)
    console.print(headline_table(many_figures(density)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "123,457" in text  # a value is never cut
    assert "123,457 to 123,457" in text
    assert "…" not in text
    assert all(word in text for word in ("baselines", "better", "lower", "higher", "real images 0.900"))


def test_a_decisive_finding_comes_first_then_a_serious_one() -> None:
    serious, decisive = finding("serious"), finding("warning", "the model has hardly been trained", decisive=True)
    said = headline_sentence(WORSE_THAN_PCA, [serious, decisive])
    assert said == "The model has hardly been trained: try a larger latent."
    assert headline_sentence(WORSE_THAN_PCA, [serious]) == "The latent is too small: try a larger latent."
    bare = dataclasses.replace(serious, headline="", advice=[])
    assert headline_sentence(WORSE_THAN_PCA, [bare]) == "A long message."
    blur = finding("serious", "outputs are blurred", name="blur")
    assert headline_sentence(WORSE_THAN_PCA, [blur]).startswith("A linear code of the same size reconstructs better")
    assert headline_sentence(AUTOENCODER, [blur]).startswith("Outputs are blurred")
    collapsed = finding("serious", "Samples have collapsed: coverage 0.01")
    assert headline_sentence(GENERATOR, [collapsed]) == "Samples have collapsed: coverage 0.01; try a larger latent."


def test_outputs_that_are_not_finite_are_said_before_any_comparison() -> None:
    said = headline_sentence(evaluation(psnr(math.nan), gap(math.nan)), [])
    assert said == "The model's outputs are not finite (PSNR): train again with a lower learning rate."


def test_a_better_linear_code_is_named_with_advice() -> None:
    said = "A linear code of the same size reconstructs better (21.3 against 18.0 dB): "
    assert headline_sentence(WORSE_THAN_PCA, []) == said + "train longer."
    assert headline_sentence(WORSE_THAN_PCA, [finding("warning")]) == said + "train longer."
    overfitting = finding("note", name="overfitting")
    expected = said + "the model overfits, so try a larger latent."
    assert headline_sentence(WORSE_THAN_PCA, [overfitting]) == expected


def test_reconstructions_are_compared_with_pca_or_with_the_mean_image() -> None:
    expected = "Reconstructions are 1.0 dB better than PCA of the same size (19.0 against 18.0 dB)"
    assert headline_sentence(AUTOENCODER, []) == f"{expected}."
    same = evaluation(psnr(18.0, pca_16=18.0), gap(0.05))
    expected = "Reconstructions are about as good as PCA of the same size (18.0 against 17.9 dB)."
    assert headline_sentence(same, []) == expected
    alone = evaluation(psnr(18.0, mean_image=10.0))
    assert headline_sentence(alone, []) == "Reconstructions reach 18.0 dB PSNR (the mean image: 10.0 dB)."


def test_samples_are_close_differ_or_are_far() -> None:
    said = headline_sentence(GENERATOR, [])
    assert said == "Samples are close to real images (FD-pixels 1.20; real against real 0.900)."
    for value, relation in ((2.7, "are close to"), (9.0, "still differ from"), (9.1, "are far from")):
        said = headline_sentence(evaluation(distance(value), density="implicit"), [])
        assert said == f"Samples {relation} real images (FD-pixels {value:.2f}; real against real 0.900)."
    unknown = evaluation(figure("fid", 9.0, better="lower"), density="implicit")
    assert headline_sentence(unknown, []) == "Samples have a FID of 9.00."


def test_masks_and_pictures_are_compared_with_doing_nothing() -> None:
    masks = evaluation(figure("mean_dice", 0.85, "masks", baselines={"one_class": 0.31}))
    assert headline_sentence(masks, []) == "Masks have a mean Dice of 0.85 (one class for all pixels: 0.31)."
    useless = evaluation(figure("mean_dice", 0.30, "masks", baselines={"one_class": 0.31}))
    expected = "Masks are no better than one class for all pixels (mean Dice 0.30 and 0.31)."
    assert headline_sentence(useless, []) == expected
    pictures = evaluation(psnr(28.0, "pictures", input=25.0))
    expected = "Outputs are 3.0 dB closer to their targets than the input (28.0 against 25.0 dB)."
    assert headline_sentence(pictures, []) == expected
    worse = evaluation(psnr(24.0, "pictures", input=25.0))
    assert "1.0 dB further from their targets" in headline_sentence(worse, [])
    unequal = evaluation(psnr(24.0, "pictures"))
    assert headline_sentence(unequal, []) == "Outputs match their targets at 24.0 dB PSNR."
    restored = figure("psnr_restored", 22.0, "denoising", unit="dB", baselines={"corrupted_input": 18.0})
    said = headline_sentence(evaluation(psnr(25.0, mean_image=10.0), restored), [])
    assert said == (
        "Restored images are 4.0 dB closer to the clean images than the corrupted input (22.0 against 18.0 dB)."
    )


def test_a_warning_is_added_to_the_quality() -> None:
    said = headline_sentence(AUTOENCODER, [finding("warning"), finding("note", "nothing of weight")])
    assert said.endswith("(19.0 against 18.0 dB); warning: the latent is too small.")
    assert headline_sentence(evaluation(), [finding("warning")]) == "The latent is too small: try a larger latent."
    assert headline_sentence(AUTOENCODER, [finding("note")]).endswith("18.0 dB).")


def test_without_figures_the_reason_is_given() -> None:
    assert headline_sentence(evaluation(density="implicit", remarks=["Samples not judged: too few."]), []) == (
        "Samples not judged: too few."
    )
    assert headline_sentence(evaluation(), []) == "No figure says how good this model is."
