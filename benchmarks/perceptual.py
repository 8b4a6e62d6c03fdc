"""The same autoencoder trained for pixels, for the features of a network, and for both, equally long.

    python benchmarks/perceptual.py [--minutes 10] [--threads 2]

The network of `photographs.py` on the same crops. Evaluated on crops of held-out photographs: PSNR, SSIM, and the
distance of EfficientNet-Lite0, which none was trained with (the features are MobileNetV2's). A picture
shows all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import KEPT, RESULTS, Clock, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import ectype
from ectype.models.autoencoder import Autoencoder
from ectype.training.run import train
from photographs import WORDS
from photos import SIDE, Judge, between, busiest, bytes_of, crops, in_parts, sheet, stacked, training_crops

LOSSES = {"mse": "{mse: 1.0}", "perceptual": "{perceptual: 1.0}", "mixture": "{l1: 1.0, perceptual: 0.1}"}
TRAINED_WITH, JUDGED_BY = "MobileNetV2", "EfficientNet-Lite0"


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(10, "of training for each"), threads=(2, "of torch"), seed=(0, "of the runs"))
    torch.set_num_threads(given.threads)
    source, budget = training_crops(), 1 if given.quick else given.minutes
    found = crops("test", SIDE)
    names, real = [crop.photograph for crop in found], stacked(found)
    judge, made, values, seen = Judge([JUDGED_BY, TRAINED_WITH]), {}, {}, {}
    for name, loss in LOSSES.items():
        words = [
            *WORDS,
            *fastest(),
            f"objective.loss={loss}",
            f"objective.network={TRAINED_WITH}",
            f"train.minutes={budget}",
            f"train.seed={given.seed}",
            f"run.threads={given.threads}",
            "prior=none",
        ]
        clock = Clock()
        run = train("ae", source, words, out=Path(KEPT / "perceptual" / f"{name}-{budget}"), console=console)
        model = ectype.load(run.path, device="cpu")
        assert isinstance(model, Autoencoder)
        seen[name] = f"{run.summary()['seen']:,} crops in {clock.read().wall / 60:.1f} minutes"
        made[name] = in_parts(lambda part, model=model: model.reconstruct(part).clamp(0, 1), real)
        values[name] = judge(made[name], real)
    rows = []
    for measure in values["mse"]:
        for name in LOSSES:
            mean = float(values[name][measure].mean())
            low, high = between(values[name][measure], names)
            detail = f"95% {low:.4g} to {high:.4g}"
            apart = values[name][measure] - values["mse"][measure]
            if name != "mse":
                detail += "; − mse {:+.4g}, 95% {:+.4g} to {:+.4g}".format(apart.mean(), *between(apart, names))
            trained = " (trained with)" if measure.endswith(TRAINED_WITH) else ""
            rows.append(
                Row(f"{name}: {measure}{trained}", float(values["mse"][measure].mean()), mean, None, detail=detail)
            )
    chosen = busiest(values["mse"]["PSNR"], names)
    columns = {"original": bytes_of(real[chosen])} | {name: bytes_of(images[chosen]) for name, images in made.items()}
    sheet({name: list(images) for name, images in columns.items()}, RESULTS / "perceptual.jpg")
    notes = [
        "; ".join(f"{name} {LOSSES[name]}: {text}" for name, text in seen.items()),
        f"{len(found)} crops of {len(set(names))} held-out photographs; the peer of each row is mse.",
        "Codes are not rounded here.",
    ]
    tell("perceptual", "The effect of a loss, trained equally long", rows, notes)


if __name__ == "__main__":
    main()
