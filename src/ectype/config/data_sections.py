"""The data section of a recipe, and what a network is told about the images that result from it."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ectype.config.sections import Section

__all__ = ["DEFAULT_MAX_PIXELS", "Augment", "DataConfig", "DataInfo", "Split", "Target"]

DEFAULT_MAX_PIXELS = 89_478_485
"""The limit of Pillow against decompression bombs: 256 MiB of RGB."""


MAX_SIDE_PX = 16_384
ImageSide = Annotated[int, Field(ge=4, le=MAX_SIDE_PX)]
"""Height or width of the images, in pixels."""
PixelValue = Annotated[float, Field(ge=-(2.0**64), le=2.0**64, allow_inf_nan=False)]
"""A value in an image file, of any type."""
MaskValue = Annotated[int, Field(ge=-(2**31), le=2**32 - 1)]
"""A value of pixels in a mask."""


class Target(NamedTuple):
    """What the targets of paired images are: masks of classes, or other images."""

    kind: Literal["masks", "images"]
    channels: int = 1
    """Channels of a target image."""
    classes: tuple[str, ...] = ()
    """Names of the classes of a mask, in the order of their indices."""
    shares: tuple[float, ...] = ()
    """Fraction of the pixels of the training masks that belong to each class; they sum to 1."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB color in which each class is drawn."""
    values: tuple[int | str, ...] = ()
    """The value of each class in the mask files, as in `data.class_values`; empty if classes are not values."""


class DataInfo(NamedTuple):
    """What a network has to know about the images that it is built for."""

    channels: int
    size: tuple[int, int]
    """Height and width in pixels."""
    classes: tuple[str, ...] = ()
    """Class names, in the order of the labels; empty without labels."""
    frequencies: tuple[float, ...] = ()
    """Fraction of the training images in each class; they sum to 1."""
    binary: bool = False
    """Whether every pixel is 0 or 1."""
    target: Target | None = None
    """The targets of paired images; None for images without targets."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.channels, *self.size)

    @property
    def trained_classes(self) -> tuple[int, ...]:
        """Indices of the classes that training images have. Others occur in held-out images only."""
        return tuple(i for i in range(len(self.classes)) if not self.frequencies or self.frequencies[i] > 0)

    @property
    def num_elements(self) -> int:
        """Number of elements of an image: channels × height × width."""
        return self.channels * self.size[0] * self.size[1]


class Split(Section):
    """Which images are held out for validation and for the test."""

    by: Literal["hash", "contiguous"] = "hash"
    """hash: by the file name, so that a file stays in its split when others are added.
    contiguous: one block of the sorted names for each split, for slices or video frames with similar neighbors."""
    val: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the images that are used to monitor training."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the images that are used for the final evaluation only."""
    group: str | None = None
    """A regular expression that is searched in the path. Files with the same match (or first group) share a split."""
    duplicates: Literal["together", "ignore"] = "together"
    """together: images that nearly repeat each other, which are found by comparing all, share a split. ignore: each
    image is assigned by its name alone. Splits that the source names, `by: contiguous` and `group` are kept."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, value: Any) -> Any:
        """Read a section that an earlier version has written with all its keys: it did not look for duplicates."""
        if isinstance(value, Mapping) and {"by", "val", "test", "group"} == set(value):
            return {**value, "duplicates": "ignore"}
        return value


class Augment(Section):
    """Random changes to training images, drawn anew each time an image is shown."""

    flip: bool = False
    """Mirror horizontally with probability ½."""
    turn: bool = False
    """Rotate by multiples of 90° (180° if images are not square), for images without a preferred orientation."""
    crop: float = Field(default=0.0, ge=0, lt=0.5)
    """Zoom into a random window whose sides are shorter by up to this fraction."""
    shift: float = Field(default=0.0, ge=0, lt=0.5)
    """Shift by up to this fraction of each side; the border is filled by reflection."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Scale brightness, contrast and saturation by factors of up to 1 ± this value."""


def _split_method(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


def _words(value: Any) -> Any:
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",")]
    return [str(word) for word in value] if isinstance(value, list | tuple) else value


def _check_encoding(value: str | None) -> str | None:
    try:
        return None if value is None else codecs.lookup(value).name
    except (LookupError, ValueError):
        raise ValueError(f"'{value}' is not an encoding: use one such as cp949, cp932 or gb18030") from None


class DataConfig(Section):
    """Where the images come from, and how they are prepared."""

    source: str | None = None
    """A folder, a zip or tar, IDX, .npz, .npy or Parquet files, hf:user/name, torchvision:Name, digits,
    or memory:… for images passed from Python."""
    labels: str | None = None
    """A CSV file with the columns path and label; None takes labels from folder names."""
    label_column: Annotated[tuple[str, ...] | None, BeforeValidator(_words)] = None
    """The column of `labels` that holds the class, if several could be meant; or several columns, separated by commas,
    of which exactly one is 1 in each row (one-hot)."""
    zip_encoding: Annotated[str | None, AfterValidator(_check_encoding)] = None
    """The encoding of the names in a zip file that was made under another language, such as cp949 (Korean), cp932
    (Japanese) or gb18030 (Chinese). None takes UTF-8 if all names are valid in it, else cp437."""
    pairs: Literal["none", "masks", "images", "alpha"] = "none"
    """Whether each image has a target of the same name: a mask of classes (masks), or another image (images). alpha:
    the alpha channel of each image is its mask."""
    input: str | None = None
    """The folder of the input images of pairs; left, right, top or bottom: the half of each file that is the input.
    None finds the folder by its name."""
    target: str | None = None
    """The folder, or the half, of the targets; see `input`."""
    target_orientation: Literal["auto", "upright", "stored"] = "auto"
    """How targets without an EXIF orientation lie if their image has one. upright: as programs show the image; stored:
    as its pixels are stored. auto: found from the sizes, which decide wherever they differ."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes of masks, in the order of their values."""
    class_values: tuple[MaskValue | str, ...] | None = None
    """The value or color (red, #ff0000) of each class in the masks, in order. None takes all values that occur in the
    masks, in ascending order; so do masks with as many classes but other values than those given here."""
    ignore: Literal["auto"] | MaskValue | str | None = "auto"
    """The value or color of mask pixels that are ignored. auto: 255, where it lies next to classes 0, 1, … in a mask
    (Pascal VOC)."""
    size: Literal["auto", "own"] | ImageSide | tuple[ImageSide, ImageSide] = "auto"
    """Pixels: one number, or height and width. auto: the images' own size if all agree and it is at most 128, else a
    square of at most 64. own: the size of most images, with no side longer than 512."""
    channels: Literal["auto", 1, 3] = "auto"
    """1: gray, 3: RGB. auto: gray if all images are gray."""
    resize: Literal["crop", "pad", "squash", "tiles"] = "crop"
    """How images are brought to `size`. crop: cut to its aspect ratio; pad: fill up to it; squash: change the aspect
    ratio; tiles: cut into parts of that size at full resolution, which keeps all details of large images."""
    background: str = "white"
    """The color of transparent pixels and of padding: any color name or code that Pillow knows."""
    alpha: Literal["paint", "ignore"] = "paint"
    """paint: transparent pixels show the background. ignore: they show the color that is stored for them."""
    value_range: tuple[PixelValue, PixelValue] | None = None
    """The values in the files that become black and white, such as [0, 4095] for 12 bits. None: the range of their
    type, and 0 to 1 for floats. A range beyond 255 leaves images of 8 bits as they are."""
    max_pixels: int = Field(default=DEFAULT_MAX_PIXELS, ge=1, le=1 << 32)
    """Images with more pixels are rejected, as a protection against small files that unpack to huge images."""
    min_size: int = Field(default=4, ge=1, le=MAX_SIDE_PX)
    """Images with a side shorter than this many pixels are rejected."""
    max_rejects: float = Field(default=0.1, ge=0, le=1)
    """Preparing stops with an error if more than this fraction of the images is rejected."""
    binarise: Literal["none", "threshold", "static", "dynamic"] = "none"
    """Make pixels black or white. threshold: at ½; static: drawn once, with the gray value as the probability of
    white; dynamic: drawn anew each time an image is shown."""
    split: Annotated[Split, BeforeValidator(_split_method)] = Split()
    augment: Augment = Augment()

    @field_validator("value_range")
    @classmethod
    def _check_value_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(
                f"a range from {value[0]:g} to {value[1]:g} is empty: give black and white, as in [0, 4095]"
            )
        return value

    @model_validator(mode="after")
    def _check_combination(self) -> DataConfig:
        if self.resize == "tiles" and self.fixed_size is None:
            raise ValueError("resize=tiles cuts images into parts and needs a fixed size: set size=256")
        if self.label_column is not None and self.labels is None:
            raise ValueError("label_column names a column of a CSV file: set labels=FILE, or leave it out")
        if self.pairs in ("none", "alpha") and (self.input is not None or self.target is not None):
            raise ValueError("input and target are for pairs: set pairs=images or pairs=masks, or leave them out")
        return self

    @property
    def preparation(self) -> dict[str, str]:
        """Keys that, next to size and channels, change the prepared images; metrics are comparable if these agree."""
        keys = {"resize": self.resize, "background": self.background, "binarise": self.binarise}
        if self.ignores_alpha:
            keys["alpha"] = "ignore"
        if self.value_range is not None:
            keys["value_range"] = f"[{self.value_range[0]:g}, {self.value_range[1]:g}]"
        return keys

    @property
    def ignores_alpha(self) -> bool:
        """Whether transparent pixels show their stored color."""
        return self.alpha == "ignore" or self.pairs == "alpha"

    @property
    def resize_mode(self) -> Literal["crop", "pad", "squash"]:
        """How one image, or one tile of an image, is brought to its size."""
        return "crop" if self.resize == "tiles" else self.resize

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width; None if they depend on the images."""
        if isinstance(self.size, str):
            return None
        return (self.size, self.size) if isinstance(self.size, int) else self.size
