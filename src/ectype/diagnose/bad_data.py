"""Bad data: images that cannot be used, that are there twice, or that preparing must harm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ectype.data.kin import kin
from ectype.data.prepared import Prepared, reasons
from ectype.diagnose.finding import Advice, Evidence, Finding, Severity

__all__ = ["of_data"]

REJECTED, COPIED, KIN, HARMED = 0.01, 0.01, 0.01, 0.1
"""Shares of images from which it is worth a word: unusable, exact copies, kin across splits, harmed by preparing."""
FEW = 500
"""Training images below which most models learn them by heart."""
SHOWN = 8


def of_data(prepared: Prepared) -> Finding | None:
    """Everything that is off with a set of images, as one finding."""
    n = len(prepared)
    evidence: list[Evidence] = []
    advice: list[Advice] = []
    signs: list[str] = []
    grave = False
    rejected = len(prepared.rejects)
    if rejected > REJECTED * (n + rejected):
        signs.append(f"{rejected:,} cannot be used ({reasons(prepared.rejects)})")
        evidence.append(Evidence("images rejected", rejected, f"of {n + rejected:,}; see {prepared.root}/rejects.csv"))
        advice.append(Advice("mend or remove what cannot be used", "what is lost may be of one kind", {}))
    if prepared.copies > COPIED * n:
        signs.append(f"{prepared.copies:,} are exact copies of others")
        evidence.append(Evidence("exact copies", prepared.copies, f"of {n:,}; see {prepared.root}/copies.csv"))
        advice.append(Advice("leave copies out", "what is there twice counts twice, and may be held out as well", {}))
    near = kin(prepared)
    pictures: dict[str, Tensor] = {}
    if len(near.held_out) > KIN * near.asked:
        grave = len(near.held_out) > 10 * KIN * near.asked
        signs.append(f"{len(near.held_out):,} of {near.asked:,} held-out images all but repeat a training image")
        evidence.append(Evidence("held-out images with kin in training", len(near.held_out), f"of {near.asked:,}"))
        why = "figures on images that were trained on in another file are too good"
        advice.append(Advice("remove the repeats", why, {}))
        why = "data.split.group takes a regular expression whose match in the path is the same for kin"
        advice.append(Advice("name what makes images kin, such as a patient or a film", why, {}))
        if not prepared.info.classes:
            why = "one slab of the sorted names is held out, so that frames beside each other stay together"
            advice.append(Advice("hold out neighbours together", why, {"data.split.by": "contiguous"}))
        pictures = {
            "held out": _images(prepared, near.held_out[:SHOWN]),
            "nearest in training": _images(prepared, near.training[:SHOWN]),
        }
    for mark, says, what in _HARM:
        count = prepared.marks.get(mark, 0)
        if count > HARMED * n and not (mark == "grey" and count >= n):  # all grey is no mixture
            signs.append(f"{count:,} {says}")
            evidence.append(Evidence(says, count, f"of {n:,}"))
            advice += what(prepared)
    if (train := prepared.splits["train"]) < FEW:
        signs.append(f"{train:,} training images are few")
        evidence.append(Evidence("training images", train, f"{FEW} are few"))
        advice.append(Advice("mirrored and shifted images", "they make few go further", dict(_AUGMENTED)))
    if not signs:
        return None
    severity: Severity = "serious" if grave else "warning"
    return Finding("bad data", severity, "; ".join(signs), evidence, advice, pictures)


_AUGMENTED = {"data.augment.flip": True, "data.augment.shift": 0.05}


def _smaller(prepared: Prepared) -> list[Advice]:
    side = max(4, min(prepared.info.size) // 2)
    return [Advice("a smaller size", "pixels that were never there cost time and teach blur", {"data.size": side})]


def _whole(prepared: Prepared) -> list[Advice]:
    why = "nothing is cut off; tiles keep the full resolution, which is best where an image has no middle"
    return [
        Advice("fill up instead of cutting", why, {"data.resize": "pad"}),
        Advice("cut into tiles", why, {"data.resize": "tiles", "data.size": min(prepared.info.size)}),
    ]


def _unbent(prepared: Prepared) -> list[Advice]:
    return [Advice("fill up instead of bending", "shapes stay what they are", {"data.resize": "pad"})]


def _one_kind(prepared: Prepared) -> list[Advice]:
    return [Advice("all grey, or apart", "a model of both spends itself on which is which", {"data.channels": 1})]


_HARM = (
    ("enlarged", "are smaller than the size they are brought to", _smaller),
    ("cut", "lose more than 40% of their area to be brought to their shape", _whole),
    ("bent", "are bent to another shape", _unbent),
    ("grey", "are grey among images in colour", _one_kind),
)


def _images(prepared: Prepared, rows: np.ndarray | Sequence[int]) -> Tensor:
    """[n, c, h, w] in [0, 1]."""
    starts = np.cumsum([0, *(len(np.load(shard, mmap_mode="r")) for shard in prepared.shards)])
    found = []
    for row in rows:
        shard = int(np.searchsorted(starts, row, side="right")) - 1
        pixels = np.load(prepared.shards[shard], mmap_mode="r")[row - starts[shard], : prepared.info.channels]
        found.append(torch.from_numpy(np.array(pixels)))
    return torch.stack(found).float() / 255
