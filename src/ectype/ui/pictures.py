"""Small pictures for the list of runs: a part of a grid of samples in which single images can be seen."""

from __future__ import annotations

import threading
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

from PIL import Image

from ectype.core.errors import RunError
from ectype.data.image_file import Rejected, open_image
from ectype.ui.folder import file_stamp

__all__ = ["Thumbnails"]

MAX_PIXELS = 40_000_000
SHOWN_PX = 480
"""Side of the part of a grid that is shown."""
THUMBNAIL_PX = 192
MAX_KEPT = 512


class Thumbnails:
    """Thumbnails of pictures, made once for each state of a file. The ones that were used last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, object], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: Path, raw: bytes) -> bytes:
        """Return a thumbnail as PNG.

        Args:
            file: The file of the picture; it identifies the thumbnail.
            raw: The picture.

        Raises:
            RunError: It is damaged, or has too many pixels.
        """
        key = (file, file_stamp(file))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            # One at a time: Pillow's limit of pixels belongs to the whole process, and cores to the training.
            self._kept[key] = small = _thumbnail(raw)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return small


def _thumbnail(raw: bytes) -> bytes:
    try:
        with open_image(raw, MAX_PIXELS) as image:
            side = min(*image.size, SHOWN_PX)
            part = image.crop((0, 0, side, side)).convert("RGB")
    except Rejected as error:
        raise RunError(f"the picture cannot be shown: {error}.") from None
    if side > THUMBNAIL_PX:
        part = part.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    written = BytesIO()
    part.save(written, "PNG")
    return written.getvalue()
