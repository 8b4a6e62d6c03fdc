"""Batches of images that show themselves in a notebook."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ectype.core.images import to_uint8
from ectype.data.preview import contact_sheet, save_grid

__all__ = ["ImageBatch"]

MAX_IMAGES_SHOWN = 64


class ImageBatch(Tensor):
    """Images [n, c, h, w] in [0, 1]: a float tensor that a notebook shows as a contact sheet.

    Operations on it return plain tensors.

    >>> import torch
    >>> batch = ImageBatch(torch.zeros(4, 1, 8, 8))
    >>> batch.shape, type(batch + 1).__name__
    (torch.Size([4, 1, 8, 8]), 'Tensor')
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls: type[ImageBatch], images: Tensor) -> ImageBatch:
        return images.detach().cpu().as_subclass(cls)

    def plain(self) -> Tensor:
        """Return the same values as a plain tensor."""
        return self.as_subclass(Tensor)

    def to_uint8(self) -> np.ndarray:
        """Return uint8 [n, h, w, c] for Pillow or Matplotlib."""
        return to_uint8(self.plain()).permute(0, 2, 3, 1).numpy()

    def save(self, file: str | Path, *, columns: int | None = None) -> Path:
        """Write the images as one picture.

        Args:
            file: PNG, JPEG or WebP.
            columns: Images in a row; about as many as there are rows if not given.

        Raises:
            DataError: The picture cannot be written.
        """
        save_grid(to_uint8(self.plain()), file, columns=columns)
        return Path(file)

    def _sheet(self) -> Any:
        return contact_sheet(to_uint8(self.plain()[:MAX_IMAGES_SHOWN]))

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self._sheet().save(target, "PNG")
        return target.getvalue()

    def _repr_html_(self) -> str:
        n, channels, height, width = self.shape
        kind = "grey" if channels == 1 else "color"
        more = f", the first {MAX_IMAGES_SHOWN} shown" if n > MAX_IMAGES_SHOWN else ""
        picture = base64.b64encode(self._repr_png_()).decode()
        return f'<img src="data:image/png;base64,{picture}"><p>{n:,} {kind} images, {width}×{height}{more}</p>'

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"ImageBatch({list(self.shape)}, in [0, 1])"
