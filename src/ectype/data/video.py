"""Frames as a film: MP4 through PyAV, animated GIF, WebP or PNG through Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ectype.errors import DataError

__all__ = ["FILMS", "save_film"]

FILMS = (".mp4", ".webp", ".gif", ".png")


def save_film(frames: UInt8[np.ndarray, "n h w 3"], path: Path, *, rate: int = 24) -> None:
    """Write frames as a film that repeats, its kind by the file's suffix.

    Args:
        frames: All of one size.
        path: Ends in .mp4, .webp, .gif or .png.
        rate: Frames per second.

    Raises:
        DataError: Another suffix, a place that cannot be written, or .mp4 without PyAV.
    """
    suffix = path.suffix.lower()
    if suffix not in FILMS:
        raise DataError(f"'{path}' is no kind of film: give a name that ends in {', '.join(FILMS)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".mp4":
            _mp4(frames, path, rate)
            return
        first, *rest = (Image.fromarray(frame) for frame in frames)
        # GIF counts time in hundredths of a second.
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)
    except OSError as error:
        raise DataError(f"cannot write '{path}' ({error.strerror or error}): give another --out.") from None


def _mp4(frames: UInt8[np.ndarray, "n h w 3"], path: Path, rate: int) -> None:
    try:
        import av
    except ImportError:
        raise DataError(
            f"'{path}' needs PyAV: pip install 'ectype[video]', or give a name that ends in .webp."
        ) from None
    # H.264 with the colour sampling that every player knows wants even sides.
    height, width = (side + side % 2 for side in frames.shape[1:3])
    padded = np.full((len(frames), height, width, 3), 255, np.uint8)
    padded[:, : frames.shape[1], : frames.shape[2]] = frames
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in padded:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode(None))
