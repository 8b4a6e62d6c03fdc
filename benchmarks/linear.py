"""The linear autoencoder and principal components: both encode 784 pixels linearly in 20 dimensions.

No linear code of 20 dimensions has a smaller squared error on the images that it is fitted on than PCA's. Gradient
descent should come close to it, and be as good on test images. Nothing is clamped on either side.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

from common import DATA, KEPT, Clock, Row, arguments, mnist, tell

os.environ.setdefault("ECTYPE_CACHE", str(KEPT))

import numpy as np
import torch
from sklearn.decomposition import PCA

import ectype
from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.models.autoencoder import Autoencoder
from ectype.runs.load import open_data
from ectype.training.run import train

GOAL = 1.02
DRAWN = 43_428
"""Parameters of the encoder as the notes behind `ae-conv` draw it, counted by hand:
80 + 1,168 + 32 + 4,640 (convolutions 1-8-16-32 and BatchNorm 16), 36,992 + 516 (288 → 128 → 4).
"""


def squares(images: np.ndarray, again: np.ndarray) -> float:
    """Return the mean over images of the squared error summed over pixels."""
    return float(((images - again) ** 2).reshape(len(images), -1).sum(1).mean())


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__)  # takes half a minute, so there is no shorter version
    recipe = load_recipe("ae-linear", {"data.source": str(DATA / "mnist"), "run.threads": 1})
    images = open_data(recipe.data)[1].split("train")
    seen = images.gather(torch.arange(len(images))).flatten(1).numpy().astype(np.float64) / 255
    unseen = mnist("t10k").reshape(10_000, -1).astype(np.float64) / 255
    with TemporaryDirectory() as scratch:
        clock = Clock()
        run = train(recipe, out=f"{scratch}/run")
        ours_took = clock.read()
        model = ectype.load(run.path, device="cpu")
    assert isinstance(model, Autoencoder)
    clock = Clock()
    pca = PCA(model.code_shape[0], svd_solver="full").fit(seen)
    pca_took = clock.read()

    def linear(some: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            code = model.encode(torch.from_numpy(some).float().view(-1, 1, 28, 28))
            return model.decode_unclamped(code).flatten(1).numpy()

    rows = []
    for what, some in (("test images, squared error per image", unseen), ("training images", seen)):
        theirs, ours = (squares(some, pca.inverse_transform(pca.transform(some))), squares(some, linear(some)))
        judged = some is unseen
        goal, met = (f"≤ {GOAL}", ours / theirs <= GOAL) if judged else ("", None)
        rows.append(Row(what, theirs, ours, ours / theirs, goal, met))
    rows.append(Row("CPU seconds of fitting", pca_took.cpu, ours_took.cpu, ours_took.cpu / pca_took.cpu))

    encoder = load_recipe("ae-conv").model.build(DataInfo(1, (28, 28))).encoder
    count = sum(p.numel() for p in encoder.parameters())
    rows.append(
        Row(
            "encoder of ae-conv, parameters", DRAWN, count, count / DRAWN, "equal", count == DRAWN, "as drawn, as built"
        )
    )
    notes = [
        f"Peer: scikit-learn's PCA (full SVD, float64) with {model.code_shape[0]} components on the same {len(seen):,} "
        "training images.",
        f"Ours: train('ae-linear'), {recipe.train.images:,} images shown, "
        "model.decode_unclamped(model.encode(x)); neither was fitted on the 10,000 test images.",
    ]
    tell("linear", "Linear autoencoder (ours) and principal components (peer)", rows, notes, quick=given.quick)


if __name__ == "__main__":
    main()
