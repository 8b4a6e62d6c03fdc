"""Evaluations of models on the built-in digits: which figures they have, and that the values are right."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from ectype.config.recipe import Recipe, load_recipe
from ectype.core.errors import RunError
from ectype.data.dataset import ImageStore, open_store
from ectype.data.loader import Loader
from ectype.data.prepare import prepare
from ectype.evaluation import evaluate as evaluate_module
from ectype.evaluation.evaluate import density_kind, evaluate
from ectype.evaluation.features import PixelFeatures
from ectype.evaluation.figures import Evaluation, Figure, format_number
from ectype.evaluation.metrics.likelihood import DEFAULT_BUDGET
from ectype.evaluation.verdict import Verdict
from ectype.models.base import Samples
from ectype.models.flop import count_flops
from ectype.nets.pca import fit_pca

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"latent_dim": 4, "hidden": "[16]", "data.size": 8}
BCE: dict[str, Any] = {**SMALL, "likelihood": "bce"}
BERNOULLI: dict[str, Any] = {**SMALL, "likelihood": "bernoulli", "data.binarise": "dynamic"}


def setting(preset: str, **changes: Any) -> tuple[nn.Module, Loader, Loader, Recipe]:
    """An untrained model of a preset, and the digits it would be trained on."""
    recipe = load_recipe(preset, {"data.source": "digits", **changes})
    store: ImageStore = open_store(prepare(recipe.data), recipe.data)
    torch.manual_seed(0)
    info = store.info._replace(binary=recipe.data.binarise != "none")
    model = recipe.model.build(info).eval()
    train, test = (Loader(store.split(side), recipe.data, CPU, training=False) for side in ("train", "test"))
    return model, train, test, recipe


def judged(preset: str, most: int | None = None, **changes: Any) -> Evaluation:
    model, train, test, recipe = setting(preset, **changes)
    return evaluate(model, train, test, recipe=recipe, device=CPU, likelihood_samples=4, max_images=most)


@pytest.fixture(scope="module")
def plain() -> Evaluation:
    return judged("ae", latent_dim=6, width=8)


@pytest.fixture(scope="module")
def variational() -> Evaluation:
    return judged("vae", latent_dim=6, width=8)


def test_reconstruction_figures_are_those_of_each_test_image(plain):
    model, _, test, _ = setting("ae", latent_dim=6, width=8)
    image = test.images.batch(torch.arange(len(test))).image
    with torch.no_grad():
        found = model.reconstruct(image)
    each = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(image.numpy(), found.numpy(), strict=True)]
    figure = plain["psnr"]
    assert figure.value == pytest.approx(np.mean(each), rel=1e-5)
    assert (figure.high - figure.low) / 2 == pytest.approx(1.96 * np.std(each, ddof=1) / math.sqrt(len(each)), rel=1e-4)
    assert figure.n == plain.test_images == len(test)
    assert plain["mse"].value == pytest.approx(float(((image - found) ** 2).mean()), rel=1e-5)


def test_baselines_are_fitted_on_training_images(plain):
    _, train, test, _ = setting("ae", latent_dim=6, width=8)
    image = test.images.batch(torch.arange(len(test))).image
    mean = train.images.batch(torch.arange(len(train))).image.mean(0)
    assert plain["mse"].baselines["mean_image"] == pytest.approx(float(((image - mean) ** 2).mean()), rel=1e-5)
    assert plain["mse"].baselines["pca_6"] < plain["mse"].baselines["mean_image"]
    gap = plain["psnr_above_pca"]
    assert gap.value == pytest.approx(plain["psnr"].value - plain["psnr"].baselines["pca_6"], abs=1e-5)
    assert gap.high < 0  # the model is not trained


def test_cases_are_ordered_by_error(plain):
    model, _, test, _ = setting("ae", latent_dim=6, width=8)
    image = test.images.batch(torch.arange(len(test))).image
    with torch.no_grad():
        order = ((model.reconstruct(image) - image) ** 2).flatten(1).mean(1).argsort().tolist()
    assert plain.cases["best"] == order[:5]
    assert plain.cases["worst"] == order[::-1][:5]
    assert set(plain.cases["median"]) <= set(order[len(order) // 2 - 4 : len(order) // 2 + 4])


def test_what_a_model_cannot_have_is_absent(plain):
    assert plain.density == "none"
    assert set(plain.groups()) == {"reconstruction", "codes"}
    assert "active_units" not in plain
    assert plain.compression == pytest.approx(64 / 6)


def test_a_code_as_large_as_the_image_has_no_pca_beside_it():
    found = judged("ae", latent_dim=64, width=8)
    assert "psnr_above_pca" not in found
    assert any(remark.startswith("PCA not shown: 64 components") for remark in found.remarks)


def test_a_stated_density_has_its_bounds(variational):
    assert variational.density == "explicit bound"
    assert variational["negative_elbo"].name == "−ELBO (Gaussian, optimal σ)"
    total = variational["reconstruction_loss"].value + variational["kl"].value
    assert variational["negative_elbo"].value == pytest.approx(total, rel=1e-5)
    assert variational["log_likelihood_iw"].value > -variational["negative_elbo"].value - 1
    assert "bits_per_dimension" not in variational
    assert variational["kl_per_dimension"].value == pytest.approx(variational["kl"].value / 6, rel=1e-5)
    spectrum = variational.series["kl_per_dimension"]
    assert sum(spectrum) == pytest.approx(variational["kl"].value, rel=1e-4)
    assert 0 <= variational["active_units"].value <= 6


def test_half_squares_carry_their_true_name_beside_the_bound():
    found = judged("vae-mlp", **SMALL, likelihood="mse")
    constant = found.image_elements / 2 * math.log(2 * math.pi)
    assert found["negative_elbo"].value == pytest.approx(found["loss_plus_kl"].value + constant, rel=1e-5)
    assert f"lacks a constant of {constant:.1f} nats" in found["loss_plus_kl"].note


def test_cross_entropy_on_grey_pixels_is_called_no_likelihood():
    found = judged("vae-mlp", **BCE)
    assert found.density == "none"
    assert "no likelihood" in found["loss_plus_kl"].note
    assert not {"negative_elbo", "log_likelihood_iw", "bits_per_dimension"} & {figure.key for figure in found.figures}


def test_bits_per_dimension_where_pixels_have_probabilities():
    found = judged("vae-mlp", **BERNOULLI)
    nats = found["log_likelihood_iw"].value
    assert found["bits_per_dimension"].value == pytest.approx(-nats / (found.image_elements * math.log(2)), rel=1e-5)
    # An untrained decoder says about one half of each pixel.
    assert found["bits_per_dimension"].value == pytest.approx(1, abs=0.3)


def test_a_model_trained_on_noise_is_judged_on_noise():
    found = judged("dae", latent_dim=6, width=8)
    figure = found["psnr_restored"]
    assert figure.group == "denoising"
    # Gaussian noise of σ = 0.2, not clipped, has a mean squared error of 0.04.
    assert figure.baselines["corrupted_input"] == pytest.approx(-10 * math.log10(0.04), abs=0.2)
    assert "sigma 0.2, not clipped" in figure.note
    assert figure.baselines["corrupted_input"] + 2 < figure.baselines["linear_filter"] < 30
    assert found["ssim_restored"].baselines["linear_filter"] > found["ssim_restored"].baselines["corrupted_input"]


def test_probe_stands_beside_pixels_and_the_majority(plain):
    figure = plain["linear_probe_accuracy"]
    pixels, majority = figure.baselines.values()
    assert 0.9 < pixels <= 1
    assert majority < 0.2 < figure.value
    assert figure.low < figure.value < figure.high


def test_the_same_evaluation_twice_is_equal_and_most_limits_it(variational):
    assert judged("vae", latent_dim=6, width=8).to_json() == variational.to_json()
    assert judged("vae", most=20, latent_dim=6, width=8)["psnr"].n == 20


def test_modes_and_gradients_are_put_back():
    model, train, test, recipe = setting("ae", latent_dim=6, width=8)
    model.train()
    evaluate(model, train, test, recipe=recipe, device=CPU, max_images=10)
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


def test_augmented_training_images_are_refused():
    model, train, test, recipe = setting("ae", latent_dim=6, width=8, flip=True)
    augmented = Loader(train.images, recipe.data, CPU, training=True)
    with pytest.raises(ValueError, match="training=False"):
        evaluate(model, augmented, test, recipe=recipe, device=CPU)


def test_keys_are_unique_and_come_first_in_json(plain, variational):
    for found in (plain, variational):
        keys = [figure.key for figure in found.figures]
        assert len(keys) == len(set(keys))
        assert [list(figure)[:2] for figure in json.loads(found.to_json())["figures"]] == [["key", "name"]] * len(keys)


def test_json_holds_everything(variational):
    assert Evaluation.from_json(variational.to_json()) == variational


def test_json_is_strict_where_a_figure_is_no_number(plain):
    broken = Evaluation.from_json(plain.to_json())
    broken.figures.append(Figure("broken", math.nan, "codes", low=math.inf))
    text = broken.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert math.isnan(Evaluation.from_json(text)["broken"].value)


@pytest.mark.parametrize("text", ["", "{}", '{"figures": 3}', "[1]"])
def test_what_is_no_evaluation_is_refused_in_one_line(text):
    with pytest.raises(RunError, match="run `ectype evaluate` again") as caught:
        Evaluation.from_json(text)
    assert "\n" not in str(caught.value)


def test_table_has_every_figure(variational):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(variational.table())
    console.file.close()
    text = console.export_text()
    assert all(figure.name in text for figure in variational.figures)
    assert "explicit bound" in text


def test_unknown_figures_are_named(plain):
    with pytest.raises(KeyError, match="no figure 'fid'"):
        plain["fid"]


def test_kind_of_density_follows_from_what_a_model_can_do():
    class Generator(nn.Module):
        def sample(self, n, *, label=None, generator=None):
            return torch.zeros(n, 1, 8, 8)

    assert density_kind(Generator()) == "implicit"
    assert density_kind(nn.Linear(2, 2)) == "none"


@pytest.mark.parametrize(
    "value, text",
    [(23.12345, "23.12"), (-0.4811, "−0.4811"), (13.0, "13"), (1234567.0, "1,234,567"), (0.00001234, "1.234e−05")],
)
def test_numbers_for_people(value, text):
    assert format_number(value) == text


def test_no_number_is_said_to_be_none():
    assert format_number(math.nan) == format_number(None) == "not a number"


def test_larger_linear_codes_stand_beside_the_models(plain):
    baselines = plain["mse"].baselines
    errors = [baselines[f"pca_{k}"] for k in (6, 12, 24)]
    assert errors == sorted(errors, reverse=True)
    _, train, test, _ = setting("ae", latent_dim=6, width=8)
    known, asked = (f.images.batch(torch.arange(len(f))).image for f in (train, test))
    found = fit_pca(known.flatten(1), 12).reconstruct(asked)
    assert errors[1] == pytest.approx(float(((found - asked) ** 2).mean()), rel=1e-4)
    assert "pca_12" not in plain["psnr"].baselines


def test_neighbours_and_small_versions_stand_beside():
    found = judged("ae", latent_dim=24, width=8)
    _, train, test, _ = setting("ae", latent_dim=24, width=8)
    known, asked = (f.images.batch(torch.arange(len(f))).image for f in (train, test))
    near = torch.cdist(asked.flatten(1), known.flatten(1)).min(1).values ** 2 / 64
    assert found["mse"].baselines["nearest_training_image"] == pytest.approx(float(near.mean()), rel=1e-4)
    small = torch.nn.functional.interpolate(asked, (4, 4), mode="bicubic", antialias=True)
    back = torch.nn.functional.interpolate(small, (8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    assert found["mse"].baselines["downscaled_16"] == pytest.approx(float(((back - asked) ** 2).mean()), rel=1e-4)
    assert "downscaled_16" in found["ssim"].baselines


def test_outputs_of_an_untrained_model_hardly_vary(plain):
    assert 0 <= plain["output_variance"].value < 0.2
    assert plain["fine_detail"].value >= 0


def test_a_likelihood_that_is_asked_for_is_of_all_images_and_names_how_pixels_were_made():
    model, train, test, recipe = setting("vae-mlp", **BERNOULLI)
    found = evaluate(model, train, test, recipe=recipe, device=CPU, likelihood_samples=7)
    figure = found["log_likelihood_iw"]
    assert figure.n == len(test)
    assert "black or white: dynamic" in figure.note
    assert "black or white: dynamic" in found["bits_per_dimension"].note


def test_the_bound_that_nobody_asked_for_is_cheap_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, test, recipe = setting("vae", latent_dim=6, width=8)
    arithmetic = count_flops(model)
    assert arithmetic is not None

    def bounded(images: float, samples: int | None = None) -> tuple[int | None, list[str]]:
        afford = DEFAULT_BUDGET._replace(max_flops=images * DEFAULT_BUDGET.samples * arithmetic[1])
        monkeypatch.setattr("ectype.evaluation.metrics.likelihood.DEFAULT_BUDGET", afford)
        found = evaluate(model, train, test, recipe=recipe, device=CPU, likelihood_samples=samples)
        bound = found.get("log_likelihood_iw")
        return (None if bound is None else bound.n), found.remarks

    assert bounded(1e6)[0] == len(test)
    assert bounded(20.5)[0] == 20
    n, remarks = bounded(15.5)
    assert n is None
    said = "64 decodings of each image would take too long here; --likelihood 64 computes it anyway."
    assert f"Likelihood not bounded: {said}" in remarks
    assert bounded(15.5, samples=2)[0] == len(test)


@pytest.mark.parametrize("preset, verdict", [("vae", ""), ("gan", "collapsed")])
def test_faults_of_samples_are_no_verdict_on_an_autoencoder(
    preset: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Verdict("collapsed", "recall 0.00")
    monkeypatch.setattr(evaluate_module, "decide_verdict", lambda *_, **__: found)
    model, train, test, recipe = setting(preset)
    assert isinstance(model, Samples)
    options: dict[str, Any] = {"likelihood_samples": 4, "max_images": 100}
    options["extractors"] = [PixelFeatures(train, model.info)]
    evaluation = evaluate(model, train, test, recipe=recipe, device=CPU, **options)
    assert evaluation.verdict == verdict
    assert "Samples: collapsed: recall 0.00." in evaluation.remarks
