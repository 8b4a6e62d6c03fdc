"""The sections of a recipe: what each key means, which values it accepts, and its default.

`ectype presets NAME --full` prints all keys of a recipe. A section with a `kind` has the keys of that kind; kinds are
classes next to the code that they configure (see `ectype.config.registry`). A recipe names kinds, never code, so that
reading someone else's recipe does not execute anything. Nothing here imports torch: listing presets has to be fast.

The sections are defined in `ectype.config.data_sections` and `ectype.config.training_sections`; import them from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator

from ectype.config.data_sections import Augment, DataConfig, DataInfo, Split, Target
from ectype.config.sections import Choice, Count, Factor, Section, Side, Weight, Weights, parse_count
from ectype.config.training_sections import (
    MAX_SEED,
    MonitorConfig,
    OptimizerConfig,
    PlayerOptimizerConfig,
    RunConfig,
    TrainConfig,
)
from ectype.core.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MAX_SEED",
    "About",
    "Augment",
    "Choice",
    "Count",
    "DataConfig",
    "DataInfo",
    "Factor",
    "ModelConfig",
    "MonitorConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PlayerOptimizerConfig",
    "RunConfig",
    "Section",
    "Side",
    "Split",
    "Target",
    "TrainConfig",
    "Weight",
    "Weights",
    "parse_count",
]


MAX_NAME_BYTES = 100
RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(1, 10))}
"""Names that Windows keeps for devices, with any suffix."""


def _check_name(name: str) -> str:
    """Return a name that is the name of a directory on every system.

    Raises:
        ValueError: It is not.
    """
    if not name.isprintable() or set(name) & set('<>:"/\\|?*'):
        raise ValueError('a name becomes the name of a directory: leave out control characters and < > : " / \\ | ? *')
    if not name or name[0] in ". " or name[-1] in ". " or name.split(".")[0].upper() in RESERVED_NAMES:
        raise ValueError("this cannot be the name of a directory on every system: use letters, digits and hyphens")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise ValueError(f"a name has at most {MAX_NAME_BYTES} bytes")
    return name


class About(Section):
    """How a preset is described in the list of presets."""

    name: Annotated[str, AfterValidator(_check_name)] = "custom"
    """Also the first part of the names of numbered runs."""
    summary: str = ""
    """What the model is, in a few words."""
    family: str = ""
    """AE, VAE, GAN, flow or U-Net."""
    density: Literal["none", "explicit bound", "implicit", ""] = ""
    """The kind of density that the model has: none (AE, U-Net), an explicit bound (VAE), or an implicit one (GAN)."""
    task: str = ""
    """What the model can be used for."""


class ModelConfig(Choice):
    """What is trained. The kinds are defined in `ectype.models`."""

    family: ClassVar[str] = "model"
    only_for_pixels: ClassVar[tuple[str, ...]] = ()
    """Keys that a model of codes does not use: a recipe that changes them asks for a model of pixels."""

    def build(self, info: DataInfo) -> nn.Module:
        """Return a newly initialized model for the given images. Has to work on the device `meta` as well."""
        raise TypeError(f"{type(self).__name__} must define build(info)")

    def on_codes(self, shape: tuple[int, ...]) -> ModelConfig:
        """Return the configuration that suits codes of this shape instead of images."""
        return self

    def on_encoder_run(self, run: Path, model: ModelConfig) -> ModelConfig:
        """Return the configuration that models the codes of another run's model.

        Args:
            run: Directory of the other run.
            model: Configuration of its model.

        Raises:
            RecipeError: This kind of model is trained on images.
        """
        raise RecipeError(
            f"'{run}' is a run, and model.kind={self.kind} is trained on images: give images, or start from the run's "
            "weights with --from."
        )

    def without_local_paths(self) -> ModelConfig:
        """Return the configuration without what only the start of training needs, such as paths on this machine."""
        return self


class ObjectiveConfig(Choice):
    """What the model is trained for. The kinds are defined in `ectype.objectives`."""

    family: ClassVar[str] = "objective"
    only_for_pixels: ClassVar[tuple[str, ...]] = ()
    """As in `ModelConfig`."""

    def on_codes(self, shape: tuple[int, ...]) -> ObjectiveConfig:
        """Return the configuration that suits codes of this shape instead of images."""
        return self

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> nn.Module:
        """Return the objective that trains a model with a budget of this many images."""
        raise TypeError(f"{type(self).__name__} must define build(model, info, images=…)")
