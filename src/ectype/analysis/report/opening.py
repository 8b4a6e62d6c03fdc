"""The pictures at the top of a page: what the model does, before any figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ectype.analysis.report.components import Row, Section

__all__ = ["opening_rows"]

NUM_SHOWN_IMAGES = 12
LABELS = {
    "translations": "Input, output, target and error of held-out images",
    "denoising": "Clean, corrupted and restored held-out images",
    "reconstructions": "Held-out images above their reconstructions",
    "samples": "Samples",
}
"""Key of a section → label of its pictures. Only the first of those before samples is shown."""


def opening_rows(sections: Sequence[Section]) -> list[Row]:
    """Return the first pictures of the sections that show what a model does.

    Args:
        sections: All sections of a run.

    Returns:
        At most two rows: outputs of the model for held-out images, and samples of its default density.
    """
    by_key = {section.key: section for section in sections}
    outputs = next((key for key in LABELS if key in by_key and key != "samples"), None)
    rows = []
    for key in filter(None, (outputs, "samples" if "samples" in by_key else None)):
        candidates = by_key[key].rows
        row = next((each for each in candidates if each.label.endswith("(default)")), candidates[0])
        pictures = [replace(each, alt=f"{each.alt} (overview)") for each in row.pictures[:NUM_SHOWN_IMAGES]]
        rows.append(Row(LABELS[key], pictures))
    return rows
