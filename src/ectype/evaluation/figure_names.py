"""Keys of figures, signs and baselines, and the display text of each key.

Code, JSON files and `metrics.jsonl` identify a figure by its key, such as `fd_pixels`; only this module turns a key
into text for people, such as "FD-pixels". Metrics that are computed on features have a key for each feature space. In
the first space the key of a proportion is the metric alone (`coverage`), in any further space it ends in the name of
the space (`coverage_pixels`). A distance always names its space (`fd_pixels`): distances in different spaces do not
compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "FID",
    "class_slugs",
    "clip_to_range",
    "display_name",
    "downscaled_key",
    "is_frechet",
    "is_key",
    "metric_of",
    "pca_key",
    "slug",
    "with_space",
]

FID = "fid"
"""Key of the Fréchet distance on all of Inception's features. In any other space its key is `fd_<space>`."""

FEATURE_SPACES = {
    "classifier": "classifier",
    "pixels": "pixels",
    "inception": "Inception",
    "dinov2": "DINOv2",
    "efficientnet_lite0_96": "EfficientNet-Lite0@96",
    "efficientnet_lite0_224": "EfficientNet-Lite0@224",
}
"""Slug of a feature space → its name."""

SPACE_METRICS = {
    "fd": "FD-{}",
    "kernel_distance": "kernel distance ({})",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "density": "density",
    "vendi_ratio": "Vendi ratio",
    "sample_variance": "variance of samples ÷ of images",
    "ndb": "NDB/K",
    "lost_clusters": "lost clusters",
    "duplicates": "duplicate samples",
}
"""Metrics with a key for each feature space → their text, where {} stands for the name of the space."""

FAMILIES = {
    "dice": "Dice of {}",
    "iou": "IoU of {}",
    "perceptual_distance": "perceptual distance ({})",
    "pca": "PCA of {} dimensions",
    "downscaled": "bicubic upscaling of {} values",
}
"""Prefix of further keys that end in a class, a network or a size → their text."""

NAMES = {
    # Samples
    FID: "FID",
    "fld": "FLD",
    "sliced_wasserstein": "sliced Wasserstein distance × 10³",
    "authenticity": "authenticity",
    "closer_to_training": "closer to training images",
    "membership_auc": "membership AUC",
    "membership_z": "membership z-score",
    "min_group_coverage": "lowest coverage of a group",
    # Reconstructions
    "mse": "MSE",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "psnr_above_pca": "PSNR above PCA",
    "output_variance": "output variance ÷ image variance",
    "fine_detail": "fine detail kept",
    "psnr_restored": "PSNR of restored images",
    "ssim_restored": "SSIM of restored images",
    # Likelihood
    "reconstruction_loss": "reconstruction loss",
    "kl": "KL",
    "loss_plus_kl": "reconstruction loss + KL",
    "negative_elbo": "−ELBO",
    "log_likelihood_iw": "importance-weighted log-likelihood",
    "bits_per_dimension": "bits per dimension",
    # Codes
    "effective_rank": "effective rank",
    "active_units": "active units",
    "kl_per_dimension": "KL per latent dimension",
    "singular_values": "singular values of the codes",
    "codebook_usage": "codebook usage",
    "code_perplexity": "code perplexity",
    "bits_per_code": "bits per code",
    "linear_probe_accuracy": "linear-probe accuracy",
    # Translations
    "l1": "L1",
    "mean_dice": "mean Dice",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_f1": "boundary F1",
    "confusion": "confusion matrix",
    # Baselines
    "real_images": "real images",
    "reconstructions": "reconstructions of training images",
    "mean_image": "mean image",
    "nearest_training_image": "nearest training image",
    "corrupted_input": "corrupted input",
    "linear_filter": "best linear filter",
    "input": "input",
    "one_class": "one class for all pixels",
    "code_dimensions": "dimensions of the code",
    "max_possible": "largest possible",
    "codebook_size": "codebook size",
    "entropy_bits": "at the entropy of these indices",
    "raw_bits": "8-bit pixels",
    "probe_on_pixels": "probe on pixels",
    "most_frequent_class": "most frequent class",
}
"""Every key without a variable part → its text."""


SHARES = frozenset(
    {
        *("precision", "recall", "coverage", "min_group_coverage", "ndb", "lost_clusters", "duplicates"),
        *("authenticity", "closer_to_training", "membership_auc"),
        *("mean_dice", "mean_iou", "dice", "iou", "pixel_accuracy", "boundary_f1"),
        *("codebook_usage", "linear_probe_accuracy"),
    }
)
"""Metrics that lie in [0, 1] by their definition."""


def clip_to_range(key: str, low: float, high: float) -> tuple[float, float]:
    """Return the part of an interval in which the metric of a key can lie; what is outside is no value of it.

    An interval by a normal approximation may reach beyond. The part contains the true value whenever all of it does.

    >>> clip_to_range("boundary_f1", 0.9, 1.1), clip_to_range("psnr", -1.0, 3.0)
    ((0.9, 1.0), (-1.0, 3.0))
    """
    if metric_of(key) not in SHARES:
        return low, high
    return 0.0 if low < 0 else low, 1.0 if high > 1 else high  # ends that are not a number stay so


def is_key(text: str) -> bool:
    """Return whether a text can be a key: lower-case ASCII words with underscores between them."""
    return re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", text) is not None


def slug(text: str) -> str:
    """Turn a name into a part of a key; empty where the name has no ASCII letter or digit.

    >>> slug("EfficientNet-Lite0@96")
    'efficientnet_lite0_96'
    """
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def class_slugs(classes: Sequence[str]) -> list[str]:
    """Return a different slug for each class; a class whose slug is empty or taken is called by its index.

    >>> class_slugs(["Cat", "cat", "猫"])
    ['cat', 'class_1', 'class_2']
    """
    slugs: list[str] = []
    for index, name in enumerate(classes):
        candidate = slug(name)
        slugs.append(candidate if candidate and candidate not in slugs else f"class_{index}")
    return slugs


def with_space(metric: str, space: str = "") -> str:
    """Return the key of a metric in a feature space, given by its slug; without one, that in the first space."""
    return f"{metric}_{space}" if space else metric


def pca_key(dimensions: int) -> str:
    """Return the key of the baseline that reconstructs from this many principal components."""
    return f"pca_{dimensions}"


def downscaled_key(values: int) -> str:
    """Return the key of the baseline that upscales a small version of an image with this many values."""
    return f"downscaled_{values}"


def metric_of(key: str) -> str:
    """Return the metric that a key belongs to, which is the key without a feature space, class, network or size.

    >>> metric_of("coverage_pixels"), metric_of("fd_classifier"), metric_of("fid"), metric_of("psnr")
    ('coverage', 'fd', 'fd', 'psnr')
    """
    if key == FID:
        return "fd"
    return key if key in NAMES else _split(key)[0]


def is_frechet(key: str) -> bool:
    """Return whether a key is that of a Fréchet distance, in any feature space."""
    return metric_of(key) == "fd"


def display_name(key: str) -> str:
    """Return the text that people read for a key; a key that is unknown here is its own text.

    >>> display_name("fd_classifier"), display_name("recall_pixels"), display_name("pca_1024")
    ('FD-classifier', 'recall (pixels)', 'PCA of 1,024 dimensions')
    """
    if key in NAMES:
        return NAMES[key]
    metric, rest = _split(key)
    if metric in FAMILIES and rest:
        return FAMILIES[metric].format(f"{int(rest):,}" if rest.isdecimal() else rest.replace("_", " "))
    if metric not in SPACE_METRICS:
        return key
    text, space = SPACE_METRICS[metric], FEATURE_SPACES.get(rest, rest)
    if "{}" in text:
        return text.format(space) if rest else text.replace("-{}", "").replace(" ({})", "")
    return f"{text} ({space})" if rest else text


def _split(key: str) -> tuple[str, str]:
    """Return the metric and what follows it in a key; the complete key and nothing where no metric begins it."""
    for metric in (*SPACE_METRICS, *FAMILIES):
        if key == metric or key.startswith(f"{metric}_"):
            return metric, key[len(metric) + 1 :]
    return key, ""
