"""Videos of frames: MP4 by PyAV; animated GIF, WebP and PNG by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ectype.core.errors import DataError
from ectype.core.optional import optional_import
from ectype.data.preview import writing_file

__all__ = ["VIDEO_SUFFIXES", "save_video"]

VIDEO_SUFFIXES = (".mp4", ".webp", ".gif", ".png")


def save_video(frames: UInt8[np.ndarray, "n h w 3"], path: Path, *, rate: int = 24) -> None:
    """Write frames as a video, in the format of the file's suffix. Animated images repeat without end.

    Args:
        frames: Images of one size.
        path: File that ends in .mp4, .webp, .gif or .png.
        rate: Frames per second.

    Raises:
        DataError: The file has another suffix, cannot be written, or is .mp4 and PyAV is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise DataError(
            f"'{path}' is not a supported video format: use a name that ends in {', '.join(VIDEO_SUFFIXES)}."
        )
    with writing_file(path) as scratch:
        if suffix == ".mp4":
            _save_mp4(frames, scratch, rate)
            return
        first, *rest = (Image.fromarray(frame) for frame in frames)
        # Pillow takes milliseconds; GIF rounds them to hundredths of a second.
        first.save(scratch, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0)


def _save_mp4(frames: UInt8[np.ndarray, "n h w 3"], path: Path, rate: int) -> None:
    alternative = "use a name that ends in .webp"
    av = optional_import("av", "video", f"'{path}'", library="PyAV", alternative=alternative, error=DataError)
    # The chroma subsampling that every player supports (yuv420p) needs even sides: others are padded.
    height, width = (side + side % 2 for side in frames.shape[1:3])
    padded = np.full((len(frames), height, width, 3), 255, np.uint8)
    padded[:, : frames.shape[1], : frames.shape[2]] = frames
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in padded:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode(None))
