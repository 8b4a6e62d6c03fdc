"""`vae-kl` on photographs, with its own losses and with faults of public training scripts, equally long.

    python benchmarks/vae_kl.py [--minutes 5] [--threads 1]

One small network, three objectives:

- ours: absolute and perceptual differences, a KL summed over the code, a critic whose turn uses detached images;
- faulty: the perceptual loss computed without a gradient, the critic's own loss with one for the autoencoder, the KL
  averaged over the code, all added to losses that are summed over an image;
- script: what diffusers' `train_autoencoderkl.py` did in commit 2e348b8: the perceptual loss without a gradient, and a
  critic that is evaluated but never updated. In commit e276f08 it is updated, its turn not detached.

Ours is trained for the given minutes; the others for as many images as take equally long, by steps that are timed
alternately, because other work on the machine would distort this otherwise. Trained on crops of 64 px, evaluated on
crops of 128 px of held-out photographs: PSNR, SSIM, and the distance of EfficientNet-Lite0, which none was trained with
(the perceptual loss has MobileNetV2's features).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from common import KEPT, RESULTS, Clock, Row, arguments, console, fastest, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

import ectype
from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.losses.weighted import WeightedLoss
from ectype.models.autoencoder import Autoencoder, AutoencoderOutput
from ectype.objectives.base import LossTerms
from ectype.objectives.critic_term import CriticTerm
from ectype.objectives.reconstruction import Reconstruction, ReconstructionConfig
from ectype.training.build import build_trainer
from ectype.training.run import train
from photos import Judge, between, busiest, bytes_of, crops, in_parts, sheet, stacked, training_crops

TRAINED_WITH, JUDGED_BY = "MobileNetV2", "EfficientNet-Lite0"
SIDE, JUDGED_AT = 64, 128
WORDS = [
    f"size={SIDE}",
    "block_out_channels=[16, 32, 64]",
    "adversary.critic={width: 32, max_width: 128, levels: 2}",
    "adversary.warmup=100",
    f"objective.network={TRAINED_WITH}",
    "augment={flip: true}",
    "train.batch=4",
    "optimizer.lr=0.001",
    "channels_last=true",
    "split.val=0.03",
    "split.test=0",
    "monitor.images=64",
    "monitor.patience=null",
    "monitor.on_collapse=warn",
    "run.keep_best=false",
    "run.pictures=0",
]
ARMS = ("ours", "faulty", "script")


class FaultyConfig(ReconstructionConfig):
    """What `reconstruction` would be with the faults of public scripts."""

    kind: Literal["faulty"] = "faulty"
    mixes: bool = True
    """Whether the autoencoder gets the gradient of the critic's own loss, and the KL is averaged."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Reconstruction:
        mixture = WeightedLoss(self.loss, channels=info.channels, network=self.network)
        return Faulty(
            model,
            self.weights,
            losses=mixture,
            critic=CriticTerm(self.adversary, info, images=images),
            mixes=self.mixes,
        )


class Faulty(Reconstruction):
    """See `FaultyConfig`."""

    def __init__(self, model: nn.Module, weights: dict[str, float], *, mixes: bool, **parts: Any) -> None:
        super().__init__(model, weights, **parts)
        self.mixes = mixes

    def image_losses(self, model: Autoencoder, raw: Tensor, image: Tensor) -> dict[str, tuple[float | Tensor, Tensor]]:
        """The perceptual loss is reported and has no gradient."""
        found = super().image_losses(model, raw, image)
        return {name: (weight, v.detach() if name == "perceptual" else v) for name, (weight, v) in found.items()}

    def loss_terms(
        self, model: Autoencoder, batch: Batch, context: StepContext, weights: dict[str, float]
    ) -> tuple[LossTerms, AutoencoderOutput]:
        """The KL is a mean over the dimensions of the code."""
        found, done = super().loss_terms(model, batch, context, weights)
        if self.mixes:
            kl = done.bottleneck.penalties["KL"].mean()
            found = LossTerms({**found.terms, "KL": (weights["KL"], kl)}, found.notes)
        return found, done

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """The critic's own loss adds its gradient to the autoencoder's, as when images are not detached."""
        assert self.critic is not None
        found, done = self.loss_terms(self.model, batch, context, self.weights)
        made = self.model.likelihood.mean(done.raw)
        found = self.critic.add_to_loss(found, made, batch.image, self.model.last_layer, context)
        if self.mixes and self.critic.has_joined():
            adversary = self.critic.adversary
            scores = adversary.score(torch.cat([batch.image, made]) * 2 - 1, None, context, ("real", "fake"))
            own = adversary.adversarial_loss.critic(*scores.chunk(2))
            # The other terms are means; compared with sums the KL would be too small.
            found = LossTerms({**found.terms, "the critic's own": (1 / self.model.info.num_elements, own)}, found.notes)
        return found


def recipe(arm: str, words: list[str]) -> Recipe:
    """Return the same network and overrides, with the objective of an arm."""
    found = load_recipe("vae-kl", words)
    if arm == "ours":
        return found
    plain = found.plain()
    plain["objective"] |= {"kind": "faulty", "mixes": arm == "faulty"}
    still = {"optimizer.players.critic": {"lr": 1e-30}} if arm == "script" else {}
    return load_recipe(plain, still)


class Noise:
    """Number of images for timing steps."""

    def __len__(self) -> int:
        return 64

    def __call__(self, index: Tensor, context: object) -> Batch:
        return Batch(torch.rand(len(index), 3, SIDE, SIDE))


def costs(recipes: Mapping[str, Recipe], rounds: int = 6) -> dict[str, float]:
    """Return the CPU seconds of a step of each arm, half with and half without an active critic."""
    info, device = DataInfo(3, (SIDE, SIDE)), torch.device("cpu")
    trainers = []
    for arm, found in recipes.items():
        waiting = build_trainer(found, info, Noise(), budget=10_000, device=device)
        trainers += [(arm, waiting), (arm, waiting.dry_run_copy())]
    spent: dict[str, list[float]] = {arm: [] for arm in recipes}
    for turn in range(rounds + 1):
        for arm, trainer in trainers:
            clock = Clock()
            trainer.step()
            if turn:  # the first is slower
                spent[arm].append(clock.read().cpu)
    return {arm: statistics.fmean(seconds) for arm, seconds in spent.items()}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__, minutes=(5, "of training for each"), threads=(1, "of torch"), seed=(0, "of the runs"))
    torch.set_num_threads(given.threads)
    source, budget = training_crops(SIDE, 2 * SIDE), 1 if given.quick else given.minutes
    found = crops("test", JUDGED_AT)
    names, real = [crop.photograph for crop in found], stacked(found)
    judge, made, values, seen = Judge([JUDGED_BY, TRAINED_WITH]), {}, {}, {}
    words = [*WORDS, *fastest(), f"train.seed={given.seed}", f"run.threads={given.threads}"]
    took, images = costs({arm: recipe(arm, words) for arm in ARMS}), 0
    for arm in ARMS:
        length = f"train.images={round(images * took['ours'] / took[arm])}" if images else f"train.minutes={budget}"
        place = KEPT / "vae-kl" / f"{arm}-{budget}-{given.seed}"
        run = train(recipe(arm, [*words, length]), source, out=Path(place), console=console)
        model = ectype.load(run.path, device="cpu")
        assert isinstance(model, Autoencoder)
        images = images or run.summary()["seen"]
        seen[arm] = f"{run.summary()['seen']:,} crops, {run.summary()['seconds'] / 60:.1f} minutes of wall time"
        made[arm] = in_parts(model.reconstruct, real)
        values[arm] = judge(made[arm], real)
    rows = []
    for measure in values["ours"]:
        for arm in ARMS[1:]:
            ours, theirs = values["ours"][measure], values[arm][measure]
            apart = ours - theirs
            low, high = between(apart, names)
            better = high < 0 if measure.startswith("distance") else low > 0
            trained = " (trained with)" if measure.endswith(TRAINED_WITH) else ""
            detail = "95% {:.4g} to {:.4g}, peer {:.4g} to {:.4g}; difference {:+.4g}, {:+.4g} to {:+.4g}".format(
                *between(ours, names), *between(theirs, names), apart.mean(), low, high
            )
            aim = "" if trained else "better, beyond chance"
            met = None if trained else bool(better)
            rows.append(
                Row(f"{measure}{trained}, {arm}", float(theirs.mean()), float(ours.mean()), None, aim, met, detail)
            )
    chosen = busiest(values["ours"]["PSNR"], names)
    columns = {"original": bytes_of(real[chosen])} | {arm: bytes_of(images[chosen]) for arm, images in made.items()}
    sheet({name: list(images) for name, images in columns.items()}, RESULTS / "vae-kl.jpg")
    notes = [
        "; ".join(f"{arm}: {text}" for arm, text in seen.items()),
        "CPU seconds of a step: " + ", ".join(f"{arm} {seconds:.3f}" for arm, seconds in took.items()),
        f"{len(found)} crops of {len(set(names))} held-out photographs; intervals over photographs, then their crops.",
        "faulty: perceptual loss without gradient, critic's turn not detached, KL averaged; script: perceptual loss "
        "without gradient, a critic that is never updated, as in diffusers' train_autoencoderkl.py of commit 2e348b8.",
        f"Codes of 4×{SIDE // 4}×{SIDE // 4} for 3×{SIDE}×{SIDE}, 12 × fewer values, not rounded.",
    ]
    tell("vae_kl", "An AutoencoderKL trained with and without the faults of public scripts", rows, notes)


if __name__ == "__main__":
    main()
