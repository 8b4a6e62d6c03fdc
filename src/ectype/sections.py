"""The sections of a recipe, typed: what each key means, which values it admits, and what it is if left out.

A section with a `kind` is validated by the `Choice` subclass of that kind; those live beside the code they configure
and are found by `discover`, never named by a path inside a file, so that reading someone's recipe runs none of their
code. Nothing here imports torch: listing presets must be quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ectype.errors import RecipeError, did_you_mean
from ectype.plugins import discover

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "About",
    "Augment",
    "Choice",
    "Count",
    "DataConfig",
    "DataInfo",
    "ModelConfig",
    "MonitorConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PlayerOptimizer",
    "RunConfig",
    "Section",
    "Split",
    "TrainConfig",
    "Weights",
    "count",
]


class Target(NamedTuple):
    """What the partners of images are."""

    kind: Literal["masks", "images"]
    channels: int = 1
    """Of a picture."""
    classes: tuple[str, ...] = ()
    """Of a mask, in the order of its indices."""
    shares: tuple[float, ...] = ()
    """Of each class in the pixels of the training masks; sums to 1."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """To paint the classes with."""
    values: tuple[int | str, ...] = ()
    """How the masks write the classes, as `data.class_values` does; none where it is no value that decides."""


class DataInfo(NamedTuple):
    """What a network must know of the images it is built for."""

    channels: int
    size: tuple[int, int]
    """Height and width in pixels."""
    classes: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()
    """Share of each class in the training images; sums to 1."""
    binary: bool = False
    """Whether every pixel is 0 or 1."""
    target: Target | None = None
    """Of images that come in pairs."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.size)

    @property
    def numbers(self) -> int:
        """How many numbers an image has."""
        return self.channels * self.size[0] * self.size[1]


def count(value: Any) -> Any:
    """Read a count that people write short: 2M, 500k, 1_000; anything else is left for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().replace("_", "")
        factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


Count = Annotated[int, BeforeValidator(count)]


def _alone(value: Any) -> Any:
    return {value: 1.0} if isinstance(value, str) and value else value


Weights = Annotated[dict[str, float], BeforeValidator(_alone)]
"""Losses by weight; a name by itself is one alone."""


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(Section):
    """A section whose `kind` decides which keys it has.

    A direct subclass is a family (`ModelConfig`); its subclasses are the kinds, each with a field
    `kind: Literal["name"] = "name"`. Validating a mapping against the family finds the kind.
    """

    kind: str
    family: ClassVar[str] = ""
    _kinds: ClassVar[dict[str, type[Choice]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if Choice in cls.__bases__:
            cls._kinds = {}
        elif default := cls.model_fields["kind"].default:
            cls._kinds[default] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _by_kind(cls, value: Any, handler: Any) -> Any:
        if Choice not in cls.__bases__ or not isinstance(value, Mapping):
            return handler(value)
        discover()
        kind = value.get("kind")
        if kind not in cls._kinds:
            raise ValueError(f"no {cls.family} of kind {kind!r}; {did_you_mean(str(kind), cls._kinds)}")
        return cls._kinds[kind].model_validate(value)


class ModelConfig(Choice):
    """What is trained: one kind per model, in `ectype.models`."""

    family: ClassVar[str] = "model"

    def build(self, info: DataInfo) -> nn.Module:
        """A fresh model for images of that shape; also built on torch's device `meta`, where no tensor has numbers."""
        raise TypeError(f"{type(self).__name__} must define build(info)")

    def on_codes(self, shape: tuple[int, ...]) -> ModelConfig:
        """The same, as it suits codes of that shape instead of images."""
        return self

    def upon(self, run: Path, model: ModelConfig) -> ModelConfig:
        """The same, set upon the codes of a run's model.

        Args:
            run: Where the weights are.
            model: What the run trained.

        Raises:
            RecipeError: It is trained on images.
        """
        raise RecipeError(
            f"'{run}' is a run, and model.kind={self.kind} is trained on images: name these, or start from the run's "
            "weights with --from."
        )

    def shipped(self) -> ModelConfig:
        """The same without what only a start needs, such as a place on this machine."""
        return self


class ObjectiveConfig(Choice):
    """What the model is trained for: one kind per set of rules, in `ectype.objectives`."""

    family: ClassVar[str] = "objective"

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> nn.Module:
        """The objective that plays with that model for a budget of so many images."""
        raise TypeError(f"{type(self).__name__} must define build(model, info, images=…)")


class About(Section):
    """What a preset says of itself in the list of presets."""

    name: str = "custom"
    summary: str = ""
    family: str = ""
    density: Literal["none", "explicit bound", "implicit", ""] = ""
    """What kind of density the model has: none (AE, U-Net), an explicit bound (VAE), an implicit one (GAN)."""
    task: str = ""


class Split(Section):
    """Which images are held out."""

    by: Literal["hash", "contiguous"] = "hash"
    """hash: by the file's name, so that a file stays where it is when others are added.
    contiguous: one slab of the sorted names each, for slices and video frames whose neighbours are alike."""
    val: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    group: str | None = None
    """A regular expression searched in the path; files whose match (or first group) agrees stay on one side."""


class Augment(Section):
    """Random changes to training images, drawn anew for each showing, on whole batches."""

    flip: bool = False
    """Mirror left and right, half of the time."""
    turn: bool = False
    """Turn by quarters, for images without an up: cells, aerial photographs. Oblong ones are turned by halves."""
    crop: float = Field(default=0.0, ge=0, lt=0.5)
    """Zoom into a random window whose sides are shorter by up to this share."""
    shift: float = Field(default=0.0, ge=0, lt=0.5)
    """Move by up to this share of each side; the border is mirrored in."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Scale brightness, contrast and saturation by up to 1 ± this."""


def _split(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


class DataConfig(Section):
    """Where the images come from and what they become."""

    source: str | None = None
    """A folder, a zip or tar, IDX, .npz, .npy or Parquet files, hf:user/name, torchvision:Name, or digits."""
    labels: str | None = None
    """A CSV file of path,label instead of labels from folder names."""
    pairs: Literal["none", "masks", "images"] = "none"
    """Whether each image has a partner of its name: a mask of classes, or another picture."""
    input: str | None = None
    """The folder of the images that have partners; left, right, top or bottom: the half of each file that is the image.
    None finds the folder by its name."""
    target: str | None = None
    """The folder of the partners, or the half."""
    class_names: tuple[str, ...] | None = None
    """What the classes of masks are called, in the order of their values."""
    class_values: tuple[int | str, ...] | None = None
    """The value in the masks, or the colour (red, #ff0000), of each class in order. None takes all that the masks have,
    from the lowest on; so do masks that have as many other values."""
    ignore: Literal["auto"] | int | str | None = "auto"
    """The value, or colour, of mask pixels that count for nothing. auto: 255 beside classes 0, 1, … (Pascal VOC)."""
    size: Literal["auto", "own"] | Annotated[int, Field(ge=4)] | tuple[int, int] = "auto"
    """Pixels: one number, or height and width. auto: the images' own where all agree and are at most 128, else a square
    of at most 64. own: the size that most images have, no side longer than 512."""
    channels: Literal["auto", 1, 3] = "auto"
    resize: Literal["crop", "pad", "squash", "tiles"] = "crop"
    """How images come to `size`: cut to its shape, filled up to it, bent to it; or cut into parts of that size at full
    resolution, which keeps all there is of large images."""
    background: str = "white"
    """A colour that Pillow knows: what transparent pixels and padding become."""
    min_size: int = Field(default=4, ge=1)
    """Images with a shorter side in pixels are rejected."""
    max_rejects: float = Field(default=0.1, ge=0, le=1)
    """The share of rejected images beyond which preparing stops."""
    binarise: Literal["none", "threshold", "static", "dynamic"] = "none"
    """Black or white pixels: ≥ ½; drawn once with the grey value as probability; or drawn at each showing."""
    split: Annotated[Split, BeforeValidator(_split)] = Split()
    augment: Augment = Augment()

    @field_validator("size")
    @classmethod
    def _pixels(cls, value: Any) -> Any:
        if isinstance(value, tuple) and min(value) < 4:
            raise ValueError(f"a side of {min(value)} pixels is too small: 4 is the least")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> DataConfig:
        if self.resize == "tiles" and self.sides is None:
            raise ValueError("resize=tiles cuts images into parts of a size that must be named: size=256")
        if self.pairs == "none" and (self.input is not None or self.target is not None):
            raise ValueError("input and target are of pairs: set pairs=images or pairs=masks, or leave them out")
        return self

    @property
    def prepared(self) -> dict[str, str]:
        """What makes other images of the same files, beside size and channels: figures of these do not compare."""
        return {"resize": self.resize, "background": self.background, "binarise": self.binarise}

    @property
    def fitting(self) -> Literal["crop", "pad", "squash"]:
        """How one image, or a part of one, comes to its size."""
        return "crop" if self.resize == "tiles" else self.resize

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width, None where they are found from the images."""
        if isinstance(self.size, str):
            return None
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class PlayerOptimizer(Section):
    """Settings of one player's optimizer that differ from the common ones."""

    lr: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    clip: float | None = Field(default=None, gt=0)


class OptimizerConfig(Section):
    """How players move."""

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of a player's gradient."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup: float = Field(default=0.02, ge=0, lt=1)
    """Share of the budget in which the rate rises from 0."""
    hold: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rest in which it stands before it falls."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end, as a share of `lr`, where the schedule falls."""
    players: dict[str, PlayerOptimizer] = {}

    def of(self, player: str) -> OptimizerConfig:
        """The settings of one player."""
        own = self.players.get(player, PlayerOptimizer())
        return self.model_copy(update=own.model_dump(exclude_none=True))


class TrainConfig(Section):
    """How long, how many at once, from which seed."""

    images: Annotated[Count, Field(gt=0)] = 1_000_000
    """Images shown, counted with repetition."""
    minutes: float | None = Field(default=None, gt=0)
    """A budget in time instead: turned into images by timing a copy, before the first step."""
    batch: int = Field(default=128, ge=1)
    """Images per update, over all processes and micro-batches."""
    ema_images: Annotated[Count, Field(ge=0)] = 0
    """Half-life, in images, of the running average of the weights; 0 for none. Never more than a twentieth of the
    images seen so far, or a short run would ship what it began with."""
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 elsewhere. bf16 is slow on most CPUs; one with AMX trains convolutions about
    twice as fast with it, and a run there says so."""
    compile: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    """Whether the numbers of a pixel lie side by side in memory. auto: on CUDA only. On a CPU it pays where maps
    are large and channels few: the convolutional GANs train 1.2 times as fast with it."""
    deterministic: bool = False
    """Ask CUDA for kernels that repeat exactly."""


class MonitorConfig(Section):
    """When to look, and when to stop."""

    every: Literal["auto", "epoch"] | Annotated[Count, Field(gt=0)] = "auto"
    """Images between checks. auto: chosen once from a timed check so that looking costs under a tenth. epoch: all of
    the training images, or 100 updates where that is more."""
    patience: int | None = Field(default=10, ge=1)
    """Stop after so many checks without a new best; None trains to the end."""
    stretch: float = Field(default=0.0, ge=0)
    """Patience also lasts for so many times the images that were seen at the last best. At 1, a run stops when nothing
    better came while it doubled: the distance of samples falls as a power of the images, so that a fixed number of
    checks is ever less of a run."""
    min_delta: Literal["auto"] | Annotated[float, Field(ge=0)] = 0.0
    """How much lower counts as better, in the measure's own unit. auto: twice the spread of the same measure between
    real images and real images, which is found once at the start; 0 where a measure has none."""
    smoothing: int = Field(default=1, ge=1)
    """Checks over which the measure is averaged before it is compared."""
    images: Annotated[Count, Field(ge=1)] = 5000
    """At most so many held-out images, or generated ones, per check."""
    features: str = "auto"
    """What generated images are compared by: auto, classifier, efficientnet, inception, dinov2 or pixels."""
    on_collapse: Literal["stop", "warn", "rollback"] = "warn"
    """What follows when a generator has collapsed: stop, say so and go on, or start again from the last healthy
    checkpoint with the advice applied (three times at most)."""


class RunConfig(Section):
    """Mechanics: what may change between two parts of one run without changing what it computes."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Images per forward pass on one device; None for all of a batch at once. auto: as many as fit into memory, found
    once at the start. Where memory does not suffice after all it is halved and the run goes on."""
    checkpoint_activations: bool = False
    """Keep only what enters the blocks of a network, and compute their insides again for the gradient: less memory for
    about a third more time."""
    log_every: float = Field(default=2.0, ge=0)
    """Least seconds between two lines of metrics."""
    pictures: int = Field(default=16, ge=0)
    """Pictures in a grid of samples or reconstructions; 0 for none."""
    keep_last: int = Field(default=2, ge=1)
    keep_best: bool = True
    keep_every: Annotated[Count, Field(gt=0)] | None = None
    """Also keep a checkpoint for each so many images."""
    tensorboard: bool = False
