"""The pictures at the top of a page: what goes into the model and what comes out, before any figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ectype.analysis.report.components import Row, Section

__all__ = ["opening_rows"]

NUM_OUTPUTS, NUM_SAMPLES = 8, 16
LABELS = {
    "translations": "Input, output, target and error",
    "denoising": "Clean, corrupted and restored",
    "reconstructions": "What goes in, and what comes out",
    "samples": "Samples",
}
"""Key of a section → label of its pictures. Only the first of those before samples is shown."""


def opening_rows(sections: Sequence[Section]) -> list[Row]:
    """Return the first pictures of the sections that show what a model does.

    Args:
        sections: All sections of a run.

    Returns:
        At most two rows: outputs of the model for eight held-out images, and sixteen samples of its default density.
    """
    by_key = {section.key: section for section in sections}
    outputs = next((key for key in LABELS if key in by_key and key != "samples"), None)
    rows = []
    for key in filter(None, (outputs, "samples" if "samples" in by_key else None)):
        candidates = by_key[key].rows
        row = next((each for each in candidates if each.label.endswith("(default)")), candidates[0])
        number = NUM_SAMPLES if key == "samples" else NUM_OUTPUTS
        pictures = [replace(each, alt=f"{each.alt} (overview)") for each in row.pictures[:number]]
        rows.append(Row(LABELS[key], pictures))
    return rows
