"""What the figures say, in sentences. Every clause follows from a number, and is left out where that is missing."""

from __future__ import annotations

import math

from ectype.measure.evaluation import Evaluation, Figure, number
from ectype.sections import DataInfo

__all__ = ["compression", "density", "summary"]


def summary(evaluation: Evaluation, info: DataInfo) -> list[str]:
    """A few sentences, the most important first."""
    parts = [*_samples(evaluation)] if evaluation.density == "implicit" else []
    parts += [_masks(evaluation), _pictures(evaluation)]
    parts += [_reconstruction(evaluation, info), _denoising(evaluation), _likelihood(evaluation), _codes(evaluation)]
    return [part for part in parts if part]


def density(kind: str, *, encodes: bool) -> str:
    """What kind of density a model has, and what follows."""
    if kind == "explicit bound":
        return "Density: explicit bound. The model bounds the likelihood of an image and is sampled from its prior."
    if kind == "implicit":
        return "Density: implicit. The model can be sampled; it gives no likelihood."
    tail = " Samples come from a density fitted on its codes afterwards." if encodes else ""
    return f"Density: none. The model gives no likelihood.{tail}"


def compression(evaluation: Evaluation) -> str:
    """Numbers in and numbers kept."""
    ratio = evaluation.compression
    if ratio is None:
        return "no code"
    return f"{evaluation.image_numbers:,} ÷ {evaluation.code_numbers:,} = {number(ratio)}"


def _range(figure: Figure, unit: str = "") -> str:
    value = f"{number(figure.value)}{unit}"
    return f"{value} (95% interval {figure.interval})" if figure.interval else value


def _reconstruction(evaluation: Evaluation, info: DataInfo) -> str:
    psnr = evaluation.get("PSNR")
    if psnr is None or psnr.group != "reconstruction":
        return ""
    height, width = info.size
    colour = "grey" if info.channels == 1 else "colour"
    said = (
        f"It reconstructs {evaluation.test_images:,} held-out {width}×{height} {colour} images at "
        f"{_range(psnr, ' dB')} PSNR"
    )
    numbers, ratio = evaluation.code_numbers, evaluation.compression
    if numbers is None or ratio is None:
        return said + "."
    against = evaluation.get("PSNR above PCA's")
    if against is not None:
        low, high = against.low, against.high
        gap = number(abs(against.value))
        if low is None or high is None or low <= 0 <= high:
            said += f", no different from PCA with the same {numbers:,} numbers"
        elif low > 0:
            said += f", {gap} dB above PCA with the same {numbers:,} numbers"
        else:
            said += f". That is {gap} dB below PCA with the same {numbers:,} numbers: a linear method does better here"
    else:
        mean = psnr.beside.get("mean image")
        if mean is not None:
            said += f"; showing the mean training image for each would give {number(mean)} dB"
    if ratio > 1:
        return said + f". Each image becomes {numbers:,} numbers, {number(ratio)} times fewer than its own."
    more = "as many as its own" if ratio == 1 else f"{number(1 / ratio)} times its own"
    return said + f". Each image becomes {numbers:,} numbers, {more}: the code compresses nothing."


def _samples(evaluation: Evaluation) -> list[str]:
    found = evaluation.groups().get("generation", [])
    distance = next((figure for figure in found if "real images" in figure.beside), None)
    if distance is None:
        return []
    said = (
        f"Its samples have a {distance.name} of {_range(distance)} to held-out images; real images have "
        f"{number(distance.beside['real images'])}."
    )
    coverage = next((figure for figure in found if figure.name.startswith("coverage")), None)
    if coverage is None:
        return [said]
    beside = coverage.beside["real images"]
    return [
        said,
        f"They come near {100 * coverage.value:.0f}% of these images; real ones come near {100 * beside:.0f}%.",
    ]


def _masks(evaluation: Evaluation) -> str:
    dice = evaluation.get("mean Dice")
    if dice is None:
        return ""
    trivial, accuracy = dice.beside["one class for all"], evaluation["pixel accuracy"]
    classes = [figure for figure in evaluation.groups()["masks"] if figure.name.startswith("Dice of ")]
    said = (
        f"Its masks of {evaluation.test_images:,} held-out images have a mean Dice of {_range(dice)}; one class for "
        f"every pixel would have {number(trivial)}. {100 * accuracy.value:.1f}% of the pixels are right."
    )
    there = [figure for figure in classes if math.isfinite(figure.value)]
    worst = min(there, key=lambda figure: figure.value, default=None)
    if worst is not None and len(classes) > 1:
        said += f" It is worst at {worst.name.removeprefix('Dice of ')} ({number(worst.value)})."
    return said


def _pictures(evaluation: Evaluation) -> str:
    found = evaluation.groups().get("pictures", [])
    psnr = next((figure for figure in found if figure.name == "PSNR"), None)
    if psnr is None:
        return ""
    said = f"It makes of {evaluation.test_images:,} held-out images what they should be, at {_range(psnr, ' dB')} PSNR"
    before = psnr.beside.get("the input itself")
    return said + (f"; the input itself is at {number(before)} dB." if before is not None else ".")


def _denoising(evaluation: Evaluation) -> str:
    psnr = evaluation.get("PSNR of restored images")
    if psnr is None:
        return ""
    before = psnr.beside["corrupted input"]
    verb = "raises" if psnr.value > before else "lowers"
    said = f"Given corrupted images it {verb} their PSNR from {number(before)} dB to {_range(psnr, ' dB')}"
    if (ssim := evaluation.get("SSIM of restored images")) is not None:
        before = ssim.beside["corrupted input"]
        verb = "raises" if ssim.value > before else "lowers"
        said += f" and {verb} their SSIM from {number(before)} to {number(ssim.value)}"
    return said + "."


def _likelihood(evaluation: Evaluation) -> str:
    found = [figure for figure in evaluation.figures if figure.name.startswith("log-likelihood, importance-weighted")]
    if found:
        bits = evaluation.get("bits per dimension")
        tail = f", at most {number(bits.value)} bits per dimension" if bits is not None else ""
        n = found[0].n
        on = f", on {n:,} of them" if n is not None and n < evaluation.test_images else ""
        k = found[0].name.rsplit(" ", 1)[1]
        return (
            f"Its log-likelihood bound with {k} importance samples is {_range(found[0], ' nats')} per image{tail}{on}."
        )
    totals = [f for f in evaluation.groups().get("likelihood", []) if f.name.endswith("+ KL")]
    if totals:
        return f"It was trained on {totals[0].name}, which is no likelihood: {_range(totals[0])} on these images."
    return ""


def _codes(evaluation: Evaluation) -> str:
    rank, active = evaluation.get("effective rank"), evaluation.get("active units")
    probe = evaluation.get("linear-probe accuracy")
    said = []
    if active is not None and active.value < (evaluation.code_numbers or 0):
        said.append(f"{number(active.value)} of {evaluation.code_numbers:,} numbers of the code are active.")
    elif rank is not None:
        said.append(f"The codes' effective rank is {number(rank.value)} of {evaluation.code_numbers:,}.")
    if probe is not None:
        pixels = next(iter(probe.beside.values()))
        low, high = probe.low or 0.0, probe.high or 1.0
        how = "no different from" if low <= pixels <= high else "above" if pixels < low else "below"
        share = f"{100 * probe.value:.1f}%"
        said.append(f"A linear probe reads the class off {share} of codes, {how} the {100 * pixels:.1f}% off pixels.")
    return " ".join(said)
