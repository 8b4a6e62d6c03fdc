"""Baselines of a reconstruction: the mean image, the nearest training image, a downscaled version of the image, and PCA
with as many dimensions as the code and with more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ectype.config.schema import DataInfo
from ectype.core.random import StepContext
from ectype.data.loader import Loader
from ectype.evaluation.figure_names import downscaled_key, pca_key
from ectype.evaluation.metrics.image_errors import image_errors, num_baseline_images
from ectype.nets.pca import PCA, fit_pca

__all__ = ["CODE_SIZE_MULTIPLES", "Baselines"]

CODE_SIZE_MULTIPLES = (2, 4)
"""Multiples of the code's dimensions that PCA is fitted with as well, to show what a larger code would gain."""
MIN_SMALL_SIDE_PX = 3
"""Shorter side of the smallest downscaled version that is a useful baseline."""
MAX_ELEMENTS_FOR_EXACT_PCA = 2048
"""Elements of an image up to which principal components are computed exactly, which is then fast."""
MAX_APPROXIMATE_COMPONENTS = 256
"""Maximum number of principal components of larger images."""


class Baselines:
    """Baselines that are fitted on training images alone.

    Args:
        train: Training images without augmentation.
        info: Shape of the images.
        batch_size: Images per batch.
        context: Returns the random draws of each batch.
        code_elements: Elements of the model's code; None where it has none.

    Attributes:
        fitted_on: Number of training images used.
        mean: The mean image [1, c, h, w].
        linear: Number of dimensions → PCA, that of the model's code first; empty if it cannot be fitted.
        small: Height and width of a downscaled image that has at most as many elements as the code; None where it would
            be too small, or no smaller than the image.
        remark: Why there is no PCA; empty if there is one, or the model has no code.
    """

    def __init__(
        self,
        train: Loader,
        info: DataInfo,
        batch_size: int,
        context: Callable[[int, int], StepContext],
        code_elements: int | None,
    ) -> None:
        n = num_baseline_images(len(train), info.num_elements)
        pixels = torch.cat(
            [batch.image.flatten(1).cpu() for batch, _ in train.batches(batch_size, context, max_images=n)]
        )
        self.fitted_on, self.remark = len(pixels), ""
        self.mean = pixels.mean(0).view(1, *info.shape)
        self.pixels, self.squared_norms = pixels, pixels.square().sum(1)
        self.linear: dict[int, PCA] = {}
        self.small: tuple[int, int] | None = None
        if code_elements is None:
            return
        scale = (code_elements / info.num_elements) ** 0.5
        height, width = (int(scale * side) for side in info.size)
        self.small = (height, width) if scale < 1 and min(height, width) >= MIN_SMALL_SIDE_PX else None
        possible = min(len(pixels), info.num_elements) - 1
        cheap = possible if info.num_elements <= MAX_ELEMENTS_FOR_EXACT_PCA else MAX_APPROXIMATE_COMPONENTS
        larger = (times * code_elements for times in CODE_SIZE_MULTIPLES)
        sizes = [code_elements, *(k for k in larger if k <= min(possible, cheap))]
        try:
            largest = fit_pca(pixels, sizes[-1])
        except ValueError as error:
            self.remark = f"PCA not shown: {error}"
            return
        self.linear = {k: largest.truncate(k) for k in sizes}

    def errors(self, image: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, " b"]]:
        """Compute the errors of each baseline for each image.

        Returns:
            `BASELINE/mse`, `BASELINE/psnr` and `BASELINE/ssim` → one value per image. PCA with more dimensions than the
            model's code has `BASELINE/mse` alone.
        """
        simple = {
            "mean_image": self.mean.expand_as(image).to(image.device),
            "nearest_training_image": self._nearest(image),
        }
        if self.small is not None:
            small = interpolate(image, self.small, mode="bicubic", antialias=True)
            upscaled = interpolate(small, image.shape[2:], mode="bicubic", antialias=True)
            simple[self.small_key] = upscaled.clamp(0, 1)
        found = {
            f"{key}/{metric}": values
            for key, output in simple.items()
            for metric, values in image_errors(output, image)._asdict().items()
        }
        for place, (dimensions, pca) in enumerate(self.linear.items()):
            key, output = pca_key(dimensions), pca.reconstruct(image)
            if place == 0:
                found |= {f"{key}/{metric}": values for metric, values in image_errors(output, image)._asdict().items()}
            else:
                found[f"{key}/mse"] = ((output - image) ** 2).flatten(1).mean(1).cpu()
        return found

    @property
    def small_key(self) -> str:
        """Key of the baseline that downscales and upscales an image; empty where there is none."""
        return "" if self.small is None else downscaled_key(self.mean.shape[1] * self.small[0] * self.small[1])

    @property
    def keys(self) -> list[str]:
        """Keys of all baselines, in the order in which they are shown."""
        small = [self.small_key] if self.small is not None else []
        return ["mean_image", "nearest_training_image", *small, *map(pca_key, self.linear)]

    def _nearest(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the training image that is nearest to each image by squared error."""
        flat = image.flatten(1).cpu()
        nearest = (self.squared_norms - 2 * flat @ self.pixels.T).argmin(1)
        return self.pixels[nearest].view_as(image).to(image.device)
