"""Figures of a model's codes: rank, active dimensions, use of a codebook, and a linear probe for the classes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ectype.data.loader import Loader
from ectype.evaluation.figures import Figure, format_number, mean_figure
from ectype.evaluation.inputs import EvaluationInputs
from ectype.evaluation.metrics.codes import (
    MAX_PROBE_FEATURES,
    MIN_ACTIVE_VARIANCE,
    PROBE_COMPONENTS,
    HasPosterior,
    Quantizes,
    active_units,
    effective_rank,
    linear_probe,
    singular_values,
)
from ectype.evaluation.metrics.image_errors import num_baseline_images
from ectype.evaluation.metrics.intervals import wilson_interval
from ectype.models.base import Encodes
from ectype.models.quantizers import perplexity
from ectype.nets.pca import fit_pca

__all__ = ["CodeFigures", "code_figures", "codebook_figures"]

MAX_CODE_ELEMENTS = 20_000_000
"""Elements of codes that are kept of each split."""
MAX_PROBE_IMAGES = 5000
"""Maximum number of training images that a probe is fitted on."""
MAX_SERIES_LENGTH = 256
"""Maximum length of a spectrum that is kept for a chart."""
GROUP = "codes"


class CodeFigures(NamedTuple):
    """What an evaluation of codes found."""

    figures: list[Figure]
    series: dict[str, list[float]]
    """Key → spectrum, largest value first."""
    remarks: list[str]


def code_figures(
    inputs: EvaluationInputs, model: Encodes, dimensions: int, *, kl: Tensor | None, kl_per_dimension: Tensor | None
) -> CodeFigures:
    """Measure the codes of test images.

    Args:
        inputs: Images and batches.
        model: The model of `inputs`, which encodes.
        dimensions: Dimensions of a code.
        kl: KL of each test image in nats [n]; None for a model without a posterior.
        kl_per_dimension: Mean KL of each latent dimension over test images [d]; None likewise.
    """
    n = max(2, MAX_CODE_ELEMENTS // dimensions)
    pixel_features, pixel_description = _pixel_features(inputs)
    test = _encode(inputs, model, inputs.test, min(n, inputs.max_images), pixel_features)
    codes = test["code"]
    found = CodeFigures([], {}, [])
    baselines = {"code_dimensions": float(dimensions)}
    if len(codes) >= 2:
        found.series["singular_values"] = singular_values(codes)[:MAX_SERIES_LENGTH].tolist()
        note = f"exp of the entropy of the singular values of {len(codes):,} centered codes"
        rank = effective_rank(codes)
        found.figures.append(Figure("effective_rank", rank, GROUP, n=len(codes), baselines=baselines, note=note))
    if len(codes) >= 2 and isinstance(model, HasPosterior):
        note = f"latent dimensions whose posterior mean has a variance over images above {MIN_ACTIVE_VARIANCE}"
        active = float(active_units(codes))
        found.figures.append(Figure("active_units", active, GROUP, n=len(codes), baselines=baselines, note=note))
    if kl is not None and kl_per_dimension is not None:
        each = kl_per_dimension.sort(descending=True).values
        found.series["kl_per_dimension"] = each[:MAX_SERIES_LENGTH].tolist()
        largest, smallest = format_number(float(each[0])), format_number(float(each[-1]))
        note = f"mean over latent dimensions; the largest has {largest}, the smallest {smallest}"
        found.figures.append(mean_figure("kl_per_dimension", kl / dimensions, GROUP, unit="nats", note=note))
    if isinstance(model, Quantizes):
        batches = inputs.batches(inputs.test, min(n, inputs.max_images))
        indices = torch.cat([model.indices(batch.image).flatten(1).cpu() for batch, _ in batches])
        found.figures.extend(codebook_figures(indices, model.codebook_size, inputs.info.num_elements))
    if inputs.labeled:
        train = _encode(inputs, model, inputs.train, min(n, MAX_PROBE_IMAGES), pixel_features)
        if len(train["label"].unique()) < 2:
            found.remarks.append("Linear probe not shown: the training images have one class.")
        else:
            found.figures.append(_probe_figure(inputs, train, test, pixel_description))
    return found


def codebook_figures(indices: Int[Tensor, " n *code"], codebook_size: int, image_elements: int) -> list[Figure]:
    """Measure how much of a codebook is used, how evenly, and how many bits the code of one image takes.

    Args:
        indices: Codes of n ≥ 1 images.
        codebook_size: Number of values of an index.
        image_elements: Elements of an image.
    """
    n, length = len(indices), indices[0].numel()
    counts = indices.unique(return_counts=True)[1].double()
    even = float(perplexity(counts))
    of = f"{n:,} images of {length:,} indices each, of {codebook_size:,} values"
    bits = length * math.log2(codebook_size)
    return [
        Figure(
            "codebook_usage",
            len(counts) / codebook_size,
            GROUP,
            n=n,
            baselines={"max_possible": min(1.0, indices.numel() / codebook_size)},
            note=f"fraction used by {of}",
        ),
        Figure(
            "code_perplexity",
            even,
            GROUP,
            n=n,
            baselines={"codebook_size": float(codebook_size)},
            note=f"exp of the entropy of the indices' frequencies; {of}",
        ),
        Figure(
            "bits_per_code",
            bits,
            GROUP,
            "bits",
            baselines={"entropy_bits": length * math.log2(even), "raw_bits": 8.0 * image_elements},
            note=f"log2 of {codebook_size:,} × {length:,} indices; {bits / image_elements:.3g} per image element",
        ),
    ]


def _encode(
    inputs: EvaluationInputs, model: Encodes, split: Loader, n: int, pixel_features: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return codes, labels and pixel features of at most n images of a split."""
    kept: dict[str, list[Tensor]] = defaultdict(list)
    for batch, _ in inputs.batches(split, n):
        kept["code"].append(model.encode(batch.image).flatten(1).float().cpu())
        if inputs.labeled and batch.label is not None:
            kept["label"].append(batch.label.cpu())
            kept["pixels"].append(pixel_features(batch.image))
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _pixel_features(inputs: EvaluationInputs) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return a function from images to the features of a probe on pixels, and a description of them."""
    elements = inputs.info.num_elements
    if not inputs.labeled or elements <= MAX_PROBE_FEATURES:
        return lambda image: image.flatten(1).cpu(), "all pixels"
    n = min(MAX_PROBE_IMAGES, num_baseline_images(len(inputs.train), elements))
    pixels = torch.cat([batch.image.flatten(1).cpu() for batch, _ in inputs.batches(inputs.train, n)])
    reduced = fit_pca(pixels, min(PROBE_COMPONENTS, n - 1, elements - 1))
    return (reduced.encode, f"{len(reduced.components)} principal components of the pixels")


def _probe_figure(
    inputs: EvaluationInputs, train: dict[str, Tensor], test: dict[str, Tensor], pixel_description: str
) -> Figure:
    labels, answers = train["label"], test["label"]
    probe = linear_probe(train["code"], labels, test["code"], answers)
    on_pixels = linear_probe(train["pixels"], labels, test["pixels"], answers)
    majority = int(labels.mode().values)
    classes = inputs.info.classes
    name = classes[majority] if majority < len(classes) else str(majority)
    low, high = wilson_interval(probe.accuracy, len(answers))
    return Figure(
        "linear_probe_accuracy",
        probe.accuracy,
        GROUP,
        low=low,
        high=high,
        n=len(answers),
        better="higher",
        baselines={
            "probe_on_pixels": on_pixels.accuracy,
            "most_frequent_class": float((answers == majority).double().mean()),
        },
        note=f"{probe.note}; Wilson interval; baselines: a probe on {pixel_description}, and always class {name}",
    )
