"""Sentences that describe the figures of an evaluation. A clause is left out if its figure is missing."""

from __future__ import annotations

import math

from ectype.config.schema import DataInfo
from ectype.evaluation.figure_names import metric_of
from ectype.evaluation.figures import Evaluation, Figure, format_number

__all__ = ["describe_density", "format_compression", "summary_text"]


def summary_text(evaluation: Evaluation, info: DataInfo) -> list[str]:
    """Describe an evaluation in a few sentences, the most important first.

    Args:
        evaluation: All figures of a model.
        info: The images that the model was built for.
    """
    parts = _samples(evaluation) if evaluation.density == "implicit" else []
    parts += [
        _masks(evaluation),
        _translations(evaluation),
        _reconstruction(evaluation, info),
        _denoising(evaluation),
        _likelihood(evaluation),
        _codes(evaluation),
    ]
    return [part for part in parts if part]


def describe_density(kind: str, *, encodes: bool) -> str:
    """Describe the kind of density over images that a model has.

    Args:
        kind: `Evaluation.density`.
        encodes: Whether the model has codes.
    """
    if kind == "explicit bound":
        return "Density: explicit bound. The model bounds the likelihood of an image, and is sampled from its prior."
    if kind == "implicit":
        return "Density: implicit. The model can be sampled, but gives no likelihood."
    samples = " Samples come from a density that is fitted on its codes after training." if encodes else ""
    return f"Density: none. The model gives no likelihood.{samples}"


def format_compression(evaluation: Evaluation) -> str:
    """Format the sizes of an image and its code, and their ratio."""
    ratio = evaluation.compression
    if ratio is None:
        return "no code"
    return f"{evaluation.image_elements:,} ÷ {evaluation.code_elements:,} = {format_number(ratio)}"


def _with_interval(figure: Figure, unit: str = "") -> str:
    value = f"{format_number(figure.value)}{unit}"
    return f"{value} (95% interval {figure.interval})" if figure.interval else value


def _reconstruction(evaluation: Evaluation, info: DataInfo) -> str:
    psnr = evaluation.get("psnr")
    if psnr is None or psnr.group != "reconstruction":
        return ""
    height, width = info.size
    color = "grayscale" if info.channels == 1 else "color"
    text = (
        f"The model reconstructs {evaluation.test_images:,} held-out {width}×{height} {color} images with a "
        f"PSNR of {_with_interval(psnr, ' dB')}"
    )
    size, ratio = evaluation.code_elements, evaluation.compression
    if size is None or ratio is None:
        return text + "."
    gap = evaluation.get("psnr_above_pca")
    if gap is not None:
        difference = format_number(abs(gap.value))
        if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
            text += f", not clearly different from PCA with the same {size:,} dimensions"
        elif gap.low > 0:
            text += f", {difference} dB above PCA with the same {size:,} dimensions"
        else:
            text += f", {difference} dB below PCA with the same {size:,} dimensions: a linear method is better here"
    elif (mean := psnr.baselines.get("mean_image")) is not None:
        text += f" (the mean training image has {format_number(mean)} dB)"
    pixels = evaluation.image_elements
    if ratio > 1:
        return (
            f"{text}. Each image becomes {size:,} values, {format_number(ratio)} times fewer than its {pixels:,} pixel "
            "values."
        )
    comparison = "as many as" if ratio == 1 else f"{format_number(1 / ratio)} times as many as"
    return f"{text}. Each image becomes {size:,} values, {comparison} its pixel values: the code compresses nothing."


def _samples(evaluation: Evaluation) -> list[str]:
    figures = evaluation.groups().get("generation", [])
    distance = next((figure for figure in figures if "real_images" in figure.baselines), None)
    if distance is None:
        return []
    sentences = [
        f"Samples have a {distance.name} of {_with_interval(distance)} to held-out images; other real images have "
        f"{format_number(distance.baselines['real_images'])}."
    ]
    coverage = evaluation.first_of("coverage")
    if coverage is not None:
        real = coverage.baselines["real_images"]
        sentences.append(
            f"{100 * coverage.value:.0f}% of held-out images have a sample close to them; for other real images it is "
            f"{100 * real:.0f}%."
        )
    return sentences


def _masks(evaluation: Evaluation) -> str:
    dice = evaluation.get("mean_dice")
    if dice is None:
        return ""
    trivial, accuracy = dice.baselines["one_class"], evaluation["pixel_accuracy"]
    text = (
        f"Masks of {evaluation.test_images:,} held-out images have a mean Dice of {_with_interval(dice)}; one class "
        f"for all pixels would have {format_number(trivial)}. {100 * accuracy.value:.1f}% of the pixels are correct."
    )
    classes = [figure for figure in evaluation.groups()["masks"] if metric_of(figure.key) == "dice"]
    measured = [figure for figure in classes if math.isfinite(figure.value)]
    worst = min(measured, key=lambda figure: figure.value, default=None)
    if worst is not None and len(classes) > 1:
        text += f" The lowest is the {worst.name}, {format_number(worst.value)}."
    return text


def _translations(evaluation: Evaluation) -> str:
    figures = evaluation.groups().get("pictures", [])
    psnr = next((figure for figure in figures if figure.key == "psnr"), None)
    if psnr is None:
        return ""
    value = _with_interval(psnr, " dB")
    text = f"Outputs for {evaluation.test_images:,} held-out images match their targets with a PSNR of {value}"
    before = psnr.baselines.get("input")
    return text + (f"; the inputs have {format_number(before)} dB." if before is not None else ".")


def _denoising(evaluation: Evaluation) -> str:
    psnr = evaluation.get("psnr_restored")
    if psnr is None:
        return ""
    before = psnr.baselines["corrupted_input"]
    verb = "raises" if psnr.value > before else "lowers"
    text = (
        f"The model {verb} the PSNR of corrupted images from {format_number(before)} to {_with_interval(psnr, ' dB')}"
    )
    if (ssim := evaluation.get("ssim_restored")) is not None:
        before = ssim.baselines["corrupted_input"]
        verb = "raises" if ssim.value > before else "lowers"
        text += f" and {verb} their SSIM from {format_number(before)} to {format_number(ssim.value)}"
    if (linear := psnr.baselines.get("linear_filter")) is not None:
        text += f"; the best linear filter reaches {format_number(linear)} dB"
    return text + "."


def _likelihood(evaluation: Evaluation) -> str:
    bound = evaluation.get("log_likelihood_iw")
    if bound is not None:
        bits = evaluation.get("bits_per_dimension")
        at_most = f", so at most {format_number(bits.value)} bits per dimension" if bits is not None else ""
        some = f" (on {bound.n:,} of the images)" if bound.n is not None and bound.n < evaluation.test_images else ""
        return f"The {bound.name} is at least {_with_interval(bound, ' nats')} per image{at_most}{some}."
    total = evaluation.get("loss_plus_kl")
    if total is not None:
        return (
            f"The model was trained on {total.name}, which is no likelihood: {_with_interval(total)} on these images."
        )
    return ""


def _codes(evaluation: Evaluation) -> str:
    rank, active = evaluation.get("effective_rank"), evaluation.get("active_units")
    probe = evaluation.get("linear_probe_accuracy")
    sentences = []
    if active is not None and active.value < (evaluation.code_elements or 0):
        active_units = format_number(active.value)
        sentences.append(f"{active_units} of {evaluation.code_elements:,} dimensions of the code are active.")
    elif rank is not None:
        effective = format_number(rank.value)
        sentences.append(f"The effective rank of the codes is {effective} of {evaluation.code_elements:,}.")
    if probe is not None:
        pixels = probe.baselines["probe_on_pixels"]
        low, high = probe.low or 0.0, probe.high or 1.0
        relation = "not clearly different from" if low <= pixels <= high else "above" if pixels < low else "below"
        sentences.append(
            f"A linear probe on codes classifies {100 * probe.value:.1f}% of images correctly, {relation} the "
            f"{100 * pixels:.1f}% of a probe on pixels."
        )
    return " ".join(sentences)
