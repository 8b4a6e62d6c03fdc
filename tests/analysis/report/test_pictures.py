from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ectype.analysis.report.pictures import DAMAGED_SIZE, load_picture
from ectype.core.errors import EctypeWarning


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_picture_is_named_and_does_not_stop_a_report(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "samples-00000001.png"
    Image.effect_noise((32, 32), 50).convert("RGB").save(file)
    whole = file.read_bytes()
    assert load_picture(file, "samples").width == 32
    flipped = whole[:60] + bytes([whole[60] ^ 64]) + whole[61:]
    file.write_bytes({"empty": b"", "cut": whole[:200], "flipped": flipped, "text": b"mine"}[damage])
    with pytest.warns(EctypeWarning, match=r"samples-00000001\.png' is not shown in the report: it is damaged"):
        shown = load_picture(file, "samples")
    assert (shown.width, shown.height) == DAMAGED_SIZE
    assert shown.alt == "samples (damaged)"
