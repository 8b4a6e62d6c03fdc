"""Keys of figures: stable, unique, and the only thing that code recognizes figures by."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ectype
from ectype.evaluation import figure_names
from ectype.evaluation.figure_names import class_slugs, display_name, is_frechet, is_key, metric_of, slug, with_space
from ectype.evaluation.figures import Figure
from ectype.evaluation.registered import registered_metrics

SOURCE = Path(ectype.__file__).parent

KEYS = set(
    """
fd_classifier fd_pixels fd_inception fd_dinov2 fd_efficientnet_lite0_96 fd_efficientnet_lite0_224 fid
kernel_distance_classifier kernel_distance_pixels
precision recall coverage density vendi_ratio sample_variance ndb lost_clusters duplicates
precision_pixels recall_pixels coverage_pixels density_pixels vendi_ratio_pixels ndb_pixels lost_clusters_pixels
duplicates_pixels min_group_coverage fld authenticity closer_to_training membership_auc membership_z sliced_wasserstein
mse psnr ssim psnr_above_pca output_variance fine_detail psnr_restored ssim_restored
reconstruction_loss kl loss_plus_kl negative_elbo log_likelihood_iw bits_per_dimension
effective_rank active_units kl_per_dimension singular_values codebook_usage code_perplexity bits_per_code
linear_probe_accuracy
l1 perceptual_distance_vgg16 mean_dice mean_iou pixel_accuracy boundary_f1 dice_cat iou_cat confusion
real_images reconstructions mean_image nearest_training_image corrupted_input linear_filter input one_class
code_dimensions max_possible codebook_size entropy_bits raw_bits probe_on_pixels most_frequent_class pca_32
downscaled_48
""".split()  # noqa: SIM905
)
"""Keys that stored evaluations, metrics and users rely on. A key may be added to this list, but never changed."""


def test_keys_are_unique_snake_case_and_have_a_name() -> None:
    names = [display_name(key) for key in KEYS]
    assert len(names) == len(set(names))
    for key, name in zip(KEYS, names, strict=True):
        assert is_key(key)
        assert "_" not in name, "an unknown key would be its own name"


def test_every_known_key_is_in_the_frozen_list() -> None:
    assert set(figure_names.NAMES) - set(registered_metrics()) <= KEYS
    assert {*figure_names.SPACE_METRICS, *figure_names.FAMILIES} <= {metric_of(key) for key in KEYS}
    assert {f"fd_{space}" for space in figure_names.FEATURE_SPACES} <= KEYS


def test_metrics_are_told_from_their_feature_spaces() -> None:
    assert [
        metric_of(key) for key in ("fid", "fd_pixels", "coverage_efficientnet_lite0_96", "psnr", "dice_left_eye")
    ] == [
        "fd",
        "fd",
        "coverage",
        "psnr",
        "dice",
    ]
    assert [is_frechet(key) for key in ("fid", "fd_dinov2", "kernel_distance_pixels", "coverage")] == [
        True,
        True,
        False,
        False,
    ]
    assert with_space("recall") == "recall"
    assert with_space("recall", slug("EfficientNet-Lite0@96")) == "recall_efficientnet_lite0_96"
    assert display_name("recall_efficientnet_lite0_96") == "recall (EfficientNet-Lite0@96)"
    assert display_name("½·SSE + KL") == "½·SSE + KL", "terms of a loss have no key"


def test_classes_of_any_name_have_different_slugs() -> None:
    assert class_slugs(["left eye", "left-eye", "目", "sky"]) == ["left_eye", "class_1", "class_2", "sky"]


def test_a_figure_is_named_by_its_key_unless_it_has_a_name_of_its_own() -> None:
    assert Figure("fd_pixels", 1.0, "generation").name == "FD-pixels"
    assert Figure("dice_left_eye", 1.0, "masks", name="Dice of left eye").name == "Dice of left eye"
    with pytest.raises(ValueError, match="'FD-pixels' is no key of a figure"):
        Figure("FD-pixels", 1.0, "generation")


def test_no_module_compares_display_text() -> None:
    """Figures, signs and baselines are recognized by their keys: no display name is compared or looked up."""
    names = {display_name(key) for key in KEYS} - KEYS
    prefixes = {"FD-", "FID", "Dice of ", "IoU of ", "PCA of ", "coverage (", "recall ("}
    found = []
    # Terms of a loss have names of their own, such as KL, in the layers below.
    below = ("core", "config", "data", "nets", "losses", "models", "objectives")
    for file in (path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in below):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for text in _compared(node):
                if text in names or text in prefixes:
                    found.append(f"{file.relative_to(SOURCE)}:{node.lineno}: {text}")  # type: ignore[attr-defined]
    assert found == []


def _compared(node: ast.AST) -> list[str]:
    """Texts that an expression compares with, looks up, or tries as the beginning of a text."""
    parts: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Subscript):
        parts = [node.slice]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        parts = node.args[:1] if node.func.attr in ("startswith", "endswith", "removeprefix", "get") else []
    found = [each for part in parts for each in (part.elts if isinstance(part, ast.Tuple) else [part])]
    return [each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)]
