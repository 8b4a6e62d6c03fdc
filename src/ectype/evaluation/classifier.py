"""A small classifier trained on the data's own labels: features for distances, and a check of conditional samples."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ectype.config.schema import Augment, DataInfo
from ectype.core.files import atomic_directory
from ectype.core.random import EpochOrder, SeededStepContext, derive_seed
from ectype.data.batch import Batch
from ectype.data.loader import Loader, evaluation_batches
from ectype.models.base import evaluating
from ectype.runs.checkpoint import verify, write_manifest

__all__ = ["Classifier", "TrainedClassifier", "cached_classifier", "train_classifier"]

CLASSIFIER_VERSION = 1
"""Version of network and training: a stored classifier of another version is trained again."""
NUM_FEATURES = 64
MAX_SIDE_PX = 64
"""Side that larger images are downscaled to."""
BATCH_SIZE = 128
MIN_IMAGES_SHOWN, MAX_IMAGES_SHOWN, EPOCHS = 60_000, 200_000, 3
"""Images shown in training: this many epochs, within these bounds."""
HOLDOUT_EVERY = 10
"""One in this many training images is held out to measure accuracy; validation and test images stay unused."""


class Classifier(nn.Module):
    """Convolutions of stride 2 (BatchNorm, ReLU), a vector of features, and a linear layer over the classes."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.classes = len(info.classes)
        self.size = tuple(min(side, MAX_SIDE_PX) for side in info.size)
        layers: list[nn.Module] = []
        widths = [info.channels, 32, 64, 128] if max(self.size) <= 32 else [info.channels, 32, 64, 128, 128]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        with torch.no_grad():
            elements = self.body.eval()(torch.zeros(1, info.channels, *self.size)).numel()
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(elements, NUM_FEATURES), nn.BatchNorm1d(NUM_FEATURES), nn.ReLU()
        )
        self.head = nn.Linear(NUM_FEATURES, self.classes)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the features of images in [0, 1]."""
        if tuple(image.shape[2:]) != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.features(self.body(image * 2 - 1))

    def classify(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the logits over the classes."""
        return self.head(self(image))


class TrainedClassifier:
    """A classifier and its accuracy.

    Attributes:
        model: The classifier, in evaluation mode.
        accuracy: Accuracy on held-out training images.
        baseline: Accuracy of always predicting the most frequent class there.
    """

    def __init__(self, model: Classifier, accuracy: float, baseline: float) -> None:
        self.model, self.accuracy, self.baseline = model.eval().requires_grad_(False), accuracy, baseline


def train_classifier(train: Loader, info: DataInfo, *, seed: int = 0) -> TrainedClassifier:
    """Train a classifier on nine in ten images of a split; all classes have the same weight in the loss.

    Args:
        train: Training images with labels, without augmentation; here they are shifted by up to a tenth.
        info: Shape and classes of the images.
        seed: Seed of weights, order and shifts; the global generator is left alone.
    """
    assert train.images.labels is not None
    from ectype.data.augment import augment

    device = train.device
    index = torch.arange(len(train))
    is_held_out = index % HOLDOUT_EVERY == HOLDOUT_EVERY - 1
    shown, held_out = index[~is_held_out], index[is_held_out]
    frequency = torch.bincount(train.images.labels[shown], minlength=len(info.classes)).float()
    weight = (frequency.sum() / (len(info.classes) * frequency.clamp(min=1))).clamp(max=10).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "classifier"))
        model = Classifier(info).to(device)
    budget = max(MIN_IMAGES_SHOWN, min(MAX_IMAGES_SHOWN, EPOCHS * len(shown)))
    steps = budget // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps + 1)
    order = EpochOrder(len(shown), derive_seed(seed, "classifier"))
    model.train()
    for step in range(steps):
        context = SeededStepContext(
            derive_seed(seed, "classifier"), step * BATCH_SIZE, step, batch=BATCH_SIZE, device=device
        )
        batch = train(shown[order.take(step * BATCH_SIZE, BATCH_SIZE)], context)
        assert batch.label is not None
        image = augment(batch.image, Augment(shift=0.1), context)
        loss = F.cross_entropy(model.classify(image), batch.label, weight=weight, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    labels, correct = [], []
    with evaluating(model):
        for batch in _batches(train, held_out, info, seed):
            assert batch.label is not None
            labels.append(batch.label.cpu())
            correct.append((model.classify(batch.image).argmax(1) == batch.label).cpu())
    all_labels = torch.cat(labels) if labels else torch.zeros(1, dtype=torch.int64)
    accuracy = float(torch.cat(correct).float().mean()) if correct else 0.0
    return TrainedClassifier(model, accuracy, float(torch.bincount(all_labels).max()) / len(all_labels))


def _batches(split: Loader, index: Tensor, info: DataInfo, seed: int) -> Iterator[Batch]:
    size, context = evaluation_batches(info, seed, split.device, "classifier")
    return (split(index[start : start + size], context(start, len(index))) for start in range(0, len(index), size))


def _training_set_hash(train: Loader) -> str:
    """Return a hash of the images that a classifier is trained on, and of their labels."""
    images = train.images
    assert images.labels is not None
    parts = [images.labels.numpy().tobytes(), *(name.encode("utf-8", "surrogateescape") for name in images.names)]
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def cached_classifier(train: Loader, info: DataInfo, place: Path, *, seed: int = 0) -> TrainedClassifier:
    """Return the classifier that is stored next to the prepared images, or train and store one.

    Args:
        train: See `train_classifier`.
        info: Shape and classes of the images.
        place: Directory of the prepared images.
        seed: See `train_classifier`.
    """
    entry = place / f"classifier-{CLASSIFIER_VERSION}-{train.config.binarise}-{seed}-{_training_set_hash(train)}"
    if verify(entry):
        with suppress(OSError, ValueError, KeyError, RuntimeError):
            stored = json.loads((entry / "classifier.json").read_text())
            model = Classifier(info).to(train.device)
            model.load_state_dict(load_file(entry / "classifier.safetensors"))
            return TrainedClassifier(model, stored["accuracy"], stored["baseline"])
    trained = train_classifier(train, info, seed=seed)
    # A cache that cannot be written costs the time again, nothing else.
    with suppress(OSError, SafetensorError), atomic_directory(entry) as scratch:
        weights = {key: tensor.cpu().contiguous() for key, tensor in trained.model.state_dict().items()}
        save_file(weights, scratch / "classifier.safetensors")
        numbers = {"accuracy": trained.accuracy, "baseline": trained.baseline}
        (scratch / "classifier.json").write_text(json.dumps(numbers))
        write_manifest(scratch)
    return trained
