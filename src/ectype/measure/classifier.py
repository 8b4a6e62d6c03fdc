"""A small classifier trained on the data's own labels: features for distances, and a judge of asked classes."""

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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ectype.data.feed import Feed
from ectype.models.base import evaluating
from ectype.sections import Augment, DataInfo
from ectype.training.checkpoint import committed, verify
from ectype.training.position import Order, Position, derive, looking

__all__ = ["Classifier", "Trained", "cached_classifier", "train_classifier"]

VERSION = 1
"""Of what is below: a classifier trained by another version is trained anew."""
FEATURES = 64
LARGEST = 64
"""Pixels of a side beyond which images are shrunk first."""
BATCH = 128
LEAST, MOST, EPOCHS = 60_000, 200_000, 3
"""Images shown: this many epochs, within these bounds."""
HELD_BACK = 10
"""One in so many training images is kept to judge it: validation and test images are for measuring with it."""


class Classifier(nn.Module):
    """Four convolutions of stride 2 (BatchNorm, ReLU), a vector of features, a linear layer over the classes."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.classes = len(info.classes)
        self.size = tuple(min(side, LARGEST) for side in info.size)
        layers: list[nn.Module] = []
        widths = [info.channels, 32, 64, 128] if max(self.size) <= 32 else [info.channels, 32, 64, 128, 128]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        with torch.no_grad():
            numbers = self.body.eval()(torch.zeros(1, info.channels, *self.size)).numel()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(numbers, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, self.classes)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features of images in [0, 1]."""
        if tuple(image.shape[2:]) != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.features(self.body(image * 2 - 1))

    def classify(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits over the classes."""
        return self.head(self(image))


class Trained:
    """A classifier and how good it is.

    Attributes:
        model: In evaluation mode.
        accuracy: On training images that were held back.
        baseline: Accuracy of always naming the commonest class there.
    """

    def __init__(self, model: Classifier, accuracy: float, baseline: float) -> None:
        self.model, self.accuracy, self.baseline = model.eval().requires_grad_(False), accuracy, baseline


def train_classifier(feed: Feed, info: DataInfo, *, seed: int = 0) -> Trained:
    """Train on nine in ten images of a feed; classes count alike however many images each has.

    Args:
        feed: Training images with labels, not augmented; they are shifted by up to a tenth here.
        info: Of the images.
        seed: Of weights, order and shifts; the global generator is left alone.
    """
    assert feed.images.labels is not None
    from ectype.data.augment import augment

    device = feed.device
    index = torch.arange(len(feed))
    kept = index % HELD_BACK == HELD_BACK - 1
    shown, held = index[~kept], index[kept]
    frequency = torch.bincount(feed.images.labels[shown], minlength=len(info.classes)).float()
    weight = (frequency.sum() / (len(info.classes) * frequency.clamp(min=1))).clamp(max=10).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "classifier"))
        model = Classifier(info).to(device)
    budget = max(LEAST, min(MOST, EPOCHS * len(shown)))
    steps = budget // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps + 1)
    order = Order(len(shown), derive(seed, "classifier"))
    model.train()
    for step in range(steps):
        moment = Position(derive(seed, "classifier"), step * BATCH, step, batch=BATCH, device=device)
        batch = feed(shown[order.take(step * BATCH, BATCH)], moment)
        assert batch.label is not None
        image = augment(batch.image, Augment(shift=0.1), moment)
        loss = F.cross_entropy(model.classify(image), batch.label, weight=weight, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    labels, right = [], []
    with evaluating(model):
        for batch in _batches(feed, held, info, seed):
            assert batch.label is not None
            labels.append(batch.label.cpu())
            right.append((model.classify(batch.image).argmax(1) == batch.label).cpu())
    found = torch.cat(labels) if labels else torch.zeros(1, dtype=torch.int64)
    accuracy = float(torch.cat(right).float().mean()) if right else 0.0
    return Trained(model, accuracy, float(torch.bincount(found).max()) / len(found))


def _batches(feed: Feed, index: Tensor, info: DataInfo, seed: int) -> Iterator:
    size, moment = looking(info, seed, feed.device, "classifier")
    return (feed(index[start : start + size], moment(start, len(index))) for start in range(0, len(index), size))


def _known(feed: Feed) -> str:
    """A hash of which images a classifier learns from, and of what it is told of them."""
    images = feed.images
    assert images.labels is not None
    told = [images.labels.numpy().tobytes(), *(name.encode("utf-8", "surrogateescape") for name in images.names)]
    return hashlib.blake2b(b"\0".join(told), digest_size=8).hexdigest()


def cached_classifier(feed: Feed, info: DataInfo, place: Path, *, seed: int = 0) -> Trained:
    """The classifier kept in a directory beside the prepared images, trained and put there if it was not yet.

    Args:
        feed: See `train_classifier`.
        info: Of the images.
        place: Of the prepared images.
        seed: See `train_classifier`.
    """
    entry = place / f"classifier-{VERSION}-{feed.config.binarise}-{seed}-{_known(feed)}"
    if verify(entry):
        with suppress(OSError, ValueError, KeyError, RuntimeError):
            said = json.loads((entry / "classifier.json").read_text())
            model = Classifier(info).to(feed.device)
            model.load_state_dict(load_file(entry / "classifier.safetensors"))
            return Trained(model, said["accuracy"], said["baseline"])
    found = train_classifier(feed, info, seed=seed)
    # A cache that cannot be written costs the time again, nothing else.
    with suppress(OSError), committed(entry) as scratch:
        save_file(
            {k: v.cpu().contiguous() for k, v in found.model.state_dict().items()}, scratch / "classifier.safetensors"
        )
        said = {"accuracy": found.accuracy, "baseline": found.baseline}
        (scratch / "classifier.json").write_text(json.dumps(said))
    return found
