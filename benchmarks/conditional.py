"""Do conditional GANs make what they are asked for, and all of it?

10,000 samples on MNIST, a thousand of each digit. A classifier that was trained on real training images names them;
within each digit, coverage of that digit's test images is compared with the coverage that as many real training images
reach.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from common import DATA, KEPT, Row, arguments, console, side_by_side, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

import ectype
from ectype.data.feed import Feed
from ectype.diagnose.advice import advised
from ectype.loading import open_data
from ectype.measure.classifier import cached_classifier
from ectype.measure.codes import wilson
from ectype.measure.features import PixelFeatures, extract
from ectype.measure.neighbours import prdc
from ectype.models.base import Samples, evaluating
from ectype.run import resolve

EACH = 1000
GOALS = {"cgan": 0.98, "cgan-mlp": 0.95, "cgan-mlp as advised": 0.95}


def judge(model: torch.nn.Module, found: Any) -> dict[str, Any]:
    """How often the asked digit is recognised, and each digit's coverage beside that of real images."""
    prepared, store = open_data(found.data)
    cpu = torch.device("cpu")
    train, test = (Feed(store.split(part), found.data, cpu, training=False) for part in ("train", "test"))
    trained = cached_classifier(train, store.info, prepared.root)
    pixels = PixelFeatures(train, store.info)
    labels = torch.arange(10).repeat_interleave(EACH)
    generator = torch.Generator().manual_seed(1)
    with evaluating(model):
        assert isinstance(model, Samples)
        images = torch.cat([model.sample(EACH, label=part, generator=generator) for part in labels.split(EACH)])
        named = torch.cat([trained.model.classify(part).argmax(1) for part in images.split(EACH)])
    right = float((named == labels).double().mean())

    def of(feed: Feed, digit: int) -> Tensor:
        places = (feed.images.labels == digit).nonzero()[:, 0]  # type: ignore[operator]
        return feed.images.gather(places[:EACH]).float() / 255

    shares = {}
    for name, features in (("classifier", trained.model), ("pixels", pixels)):
        for digit in range(10):
            real = extract(features, [of(test, digit)])  # type: ignore[arg-type]
            fake = extract(features, [images[labels == digit][: len(real)]])  # type: ignore[arg-type]
            known = extract(features, [of(train, digit)[: len(real)]])  # type: ignore[arg-type]
            shares[f"{digit}, {name}"] = prdc(real, fake).coverage / prdc(real, known).coverage
    return {"right": right, "coverage": shares, "classifier": trained.accuracy}


def trial(given: tuple[str, str, list[str], int, int]) -> tuple[str, dict[str, Any]]:
    """One run on one thread, and what it makes of what it is asked for."""
    name, preset, words, budget, seed = given
    torch.set_num_threads(1)
    place = KEPT / "conditional" / f"{name.replace(' ', '-')}-{budget}-{seed}-1"
    asked = [*words, f"train.seed={seed}", "run.pictures=0", "run.threads=1", f"train.minutes={budget}"]
    run = ectype.train(preset, DATA / "mnist", asked, out=Path(place))
    found = judge(ectype.load(run.path, device="cpu"), run.recipe)
    said = run.summary()  # of a run that was there already too
    return name, found | {"summary": said, "minutes": said["seconds"] / 60}


def main() -> None:
    """Measure and tell."""
    given = arguments(
        __doc__,
        minutes=(24, "of training for cgan, a quarter of them for the others"),
        seed=(0, "of all"),
        processes=(2, "at a time"),
    )
    advice = advised(resolve("cgan-mlp", DATA / "mnist"), "collapsed")[0].typed()
    runs = {
        "cgan": ("cgan", ["monitor.on_collapse=warn"]),
        "cgan-mlp": ("cgan-mlp", []),
        "cgan-mlp as advised": ("cgan-mlp", [*shlex.split(advice), "optimizer.lr=5e-4"]),
    }
    work = []
    for name, (preset, words) in runs.items():
        budget = 1 if given.quick else given.minutes if preset == "cgan" else max(1, given.minutes // 4)
        work.append((name, preset, words, budget, given.seed))
    raw = {}
    for name, found in side_by_side(trial, work, given.processes):
        raw[name] = found
        console.print(name, {key: value for key, value in found.items() if key != "coverage"})
    rows = []
    for name in runs:
        found = raw[name]
        low, high = wilson(found["right"], 10 * EACH)
        detail = (
            f"95% interval {low:.2%} to {high:.2%}; {found['summary']['seen']:,} images in {found['minutes']:.1f} "
            "minutes on one thread"
        )
        goal = GOALS[name]
        rows.append(
            Row(
                f"{name}: asked digit recognised",
                found["classifier"],
                found["right"],
                None,
                f"≥ {goal:.0%}",
                found["right"] >= goal,
                detail,
            )
        )
        for features in ("classifier", "pixels"):
            least = min((share, key) for key, share in found["coverage"].items() if key.endswith(features))
            mean = sum(s for k, s in found["coverage"].items() if k.endswith(features)) / 10
            detail = f"least at digit {least[1][0]}, mean {mean:.2f}"
            what = f"{name}: coverage of each digit ÷ real images', {features}"
            rows.append(Row(what, 1.0, least[0], least[0], "≥ 0.8", least[0] >= 0.8, detail))
    notes = [
        "Peer of the first row: the classifier on real images that it was not trained on.",
        f"Advised after a collapse of cgan-mlp, applied as printed: {advice}; with it the learning rate is 5e-4.",
    ]
    tell("conditional", "Conditional GANs on MNIST", rows, notes, runs=raw)


if __name__ == "__main__":
    main()
