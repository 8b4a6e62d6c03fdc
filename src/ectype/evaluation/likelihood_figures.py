"""Figures of the likelihood: terms of the evidence lower bound, and the importance-weighted bound."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ectype.core.random import derive_seed
from ectype.evaluation.figures import Figure, mean_figure
from ectype.evaluation.inputs import EvaluationInputs
from ectype.evaluation.metrics.likelihood import bits_per_dimension, likelihood_of, log_likelihood_bound
from ectype.models.base import HasLogLikelihood
from ectype.models.likelihoods import Likelihood

__all__ = ["bound_figures", "importance_weighted_figures"]

GROUP = "likelihood"
LOWER: dict[str, Literal["lower"]] = {"better": "lower"}


def bound_figures(likelihood: Likelihood, values: dict[str, Tensor], elements: int, binarized: str) -> list[Figure]:
    """Return reconstruction loss, KL, their sum and −ELBO, as far as the likelihood states a density.

    Args:
        likelihood: The model's likelihood.
        values: `loss`, `kl` and `negative_elbo` of each test image [n].
        elements: Elements of an image.
        binarized: Note on how pixels were binarized; empty if they were not.
    """
    density, name = likelihood.density_name, likelihood.loss_name
    shown: dict[str, Any] = {**LOWER, "unit": "nats" if density is not None else "", "comparable_within": name}
    note = "one sample of q(z|x) per image, summed over the elements of the image"
    figures = [
        mean_figure("reconstruction_loss", values["loss"], GROUP, name=name, note=note, **shown),
        mean_figure("kl", values["kl"], GROUP, unit="nats", note="KL(q(z|x) ‖ N(0, I)), closed form"),
    ]
    if density is None:
        note = "no likelihood: it bounds nothing, and compares only with runs that have the same loss"
    else:
        omitted = likelihood.omitted_constant * elements
        note = f"lacks a constant of {omitted:.1f} nats per image" if omitted else "β = 1"
    if density is None or likelihood.omitted_constant:
        total = values["loss"] + values["kl"]
        figures.append(mean_figure("loss_plus_kl", total, GROUP, name=f"{name} + KL", note=note, **shown))
    if density is not None:
        note = f"β = 1, constants included{binarized}"
        if (log_sigma := getattr(likelihood, "log_sigma", None)) is not None:
            note += f"; σ = {math.exp(float(log_sigma)):.4g}"
        shown |= {"unit": "nats", "comparable_within": density}
        elbo = values["negative_elbo"]
        figures.append(mean_figure("negative_elbo", elbo, GROUP, name=f"−ELBO ({density})", note=note, **shown))
    return figures


def importance_weighted_figures(
    inputs: EvaluationInputs, model: HasLogLikelihood, n: int, samples: int, binarized: str
) -> list[Figure]:
    """Return the importance-weighted log-likelihood, and bits per dimension where pixels have probabilities.

    Args:
        inputs: Images and batches.
        model: The model of `inputs`.
        n: Number of test images.
        samples: Samples of q(z|x) for each image.
        binarized: Note on how pixels were binarized; empty if they were not.
    """
    generator = torch.Generator().manual_seed(derive_seed(inputs.seed, "evaluate", "likelihood"))
    batches = inputs.batches(inputs.test, n)
    bound = torch.cat(
        [log_likelihood_bound(model, batch.image, samples=samples, generator=generator) for batch, _ in batches]
    )
    likelihood = likelihood_of(inputs.model)
    discrete, density = (likelihood.discrete, likelihood.density_name) if likelihood is not None else (False, None)
    kind, aside = ("probability", "") if discrete else ("density", ", which may exceed 1")
    figures = [
        mean_figure(
            "log_likelihood_iw",
            bound,
            GROUP,
            name=f"importance-weighted log-likelihood (k = {samples})",
            better="higher",
            unit="nats",
            note=f"a lower bound of the log of a {kind}{aside}" + (f" ({density})" if density else "") + binarized,
            comparable_within=f"{kind}, k = {samples}",
        )
    ]
    if discrete:
        figures.append(
            mean_figure(
                "bits_per_dimension",
                bits_per_dimension(bound, inputs.info.num_elements),
                GROUP,
                better="lower",
                unit="bits",
                note=f"an upper bound, from the importance-weighted log-likelihood{binarized}",
                comparable_within=f"k = {samples}",
            )
        )
    return figures
