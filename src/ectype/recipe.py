"""A recipe: everything that defines a run, as typed sections, read from YAML and changed by `key=value`.

This module knows no model and no objective. A section with a `kind` is validated by the `Choice` subclass of that kind;
those live beside the code they configure and are found by `discover`, never named by a path inside a file, so that
reading someone's recipe runs none of their code. Nothing here imports torch: listing presets must be quick.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from ectype.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "About",
    "Augment",
    "Choice",
    "DataConfig",
    "DataInfo",
    "ModelConfig",
    "MonitorConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PlayerOptimizer",
    "Recipe",
    "RunConfig",
    "Section",
    "Split",
    "TrainConfig",
    "count",
    "data_recipe",
    "differences",
    "discover",
    "load_recipe",
    "preset_names",
    "preset_path",
    "preset_table",
]

PRESETS = Path(__file__).parent / "recipes"


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


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


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
        """A model for images of that shape, weights not yet drawn from the run's seed."""
        raise TypeError(f"{type(self).__name__} must define build(info)")


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
    labels: str | None = None
    """A CSV file of path,label instead of labels from folder names."""
    size: Literal["auto"] | Annotated[int, Field(ge=4)] | tuple[int, int] = "auto"
    """Pixels: one number, or height and width. auto: the images' own if all agree and are small, at most 64."""
    channels: Literal["auto", 1, 3] = "auto"
    resize: Literal["crop", "pad", "squash"] = "crop"
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

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width, None where they are found from the images."""
        if self.size == "auto":
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
    """Half-life, in images, of the running average of the weights; 0 for none."""
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 elsewhere (bf16 is slow on most CPUs)."""
    compile: bool = False
    deterministic: bool = False
    """Ask CUDA for kernels that repeat exactly."""


class MonitorConfig(Section):
    """When to look, and when to stop."""

    every: Literal["auto", "epoch"] | Annotated[Count, Field(gt=0)] = "auto"
    """Images between checks. auto: chosen once from a timed check so that looking costs under a tenth."""
    patience: int | None = Field(default=10, ge=1)
    """Stop after so many checks without a new best; None trains to the end."""
    min_delta: float = Field(default=0.0, ge=0)
    """What counts as better, in the measure's own unit."""
    images: Annotated[Count, Field(ge=1)] = 5000
    """At most so many held-out images per check."""


class RunConfig(Section):
    """Mechanics: what may change between two parts of one run without changing what it computes."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    """Images per forward pass on one device; None for all at once."""
    log_every: float = Field(default=2.0, ge=0)
    """Least seconds between two lines of metrics."""
    pictures: int = Field(default=16, ge=0)
    """Pictures in a grid of samples or reconstructions; 0 for none."""
    keep_last: int = Field(default=2, ge=1)
    keep_best: bool = True
    keep_every: Annotated[Count, Field(gt=0)] | None = None
    """Also keep a checkpoint for each so many images."""
    tensorboard: bool = False


class Recipe(Section):
    """Everything that defines a run. `run` aside, an equal recipe on equal data computes equal weights."""

    about: About = About()
    data: DataConfig = DataConfig()
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    run: RunConfig = RunConfig()

    def plain(self) -> dict[str, Any]:
        """Nested plain values, every key present."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def yaml(self) -> str:
        """The recipe as YAML, every key present."""
        plain = self.plain()

        def text(part: dict[str, Any], flow: bool | None) -> str:
            return yaml.safe_dump(part, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=120)

        return text({"about": plain.pop("about")}, False) + "".join(text({k: v}, None) for k, v in plain.items())

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with some keys changed.

        A key is a dotted path or its end (`latent_dim`, `optimizer.lr`); an end that fits several paths is refused
        with all of them named. Values are Python values or the text a user typed.

        Raises:
            RecipeError: An unknown or ambiguous key, or a value its key does not admit.
        """
        return _validate(Recipe, _changed(self.plain(), changes))


def _changed(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        path = _find(plain, key)
        node = plain
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = _merge(node.get(path[-1]), _value(value) if isinstance(value, str) else value)
    return plain


def _value(text: str) -> Any:
    """Read a value as YAML does, and the floats that YAML 1.1 takes for text (1e-3)."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merge(old: Any, new: Any) -> Any:
    """A mapping of the same kind changes only the keys it has; anything else replaces."""
    if isinstance(old, dict) and isinstance(new, Mapping) and new.get("kind", old.get("kind")) == old.get("kind"):
        return {**old, **new}
    if isinstance(old, dict) and "kind" in old and isinstance(new, str):
        return old if new == old["kind"] else {"kind": new}
    return new


def _paths(node: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, key))


def _find(plain: Mapping[str, Any], key: str) -> tuple[str, ...]:
    parts = tuple(key.split("."))
    paths = list(_paths(plain))
    fits = [path for path in paths if path[-len(parts) :] == parts]
    if (whole := [path for path in fits if path == parts]) or len(fits) == 1:
        return (whole or fits)[0]
    if fits:
        names = ", ".join(".".join(path) for path in fits)
        raise RecipeError(f"'{key}' fits several keys: {names}; write one in full.")
    if len(parts) > 1 and parts[:-1] in (("optimizer", "players"), ("players",)):
        return ("optimizer", "players", parts[-1])
    names = {".".join(path[-len(parts) :]) for path in paths} | {path[-1] for path in paths}
    raise RecipeError(f"no key '{key}' in this recipe; {did_you_mean(key, names)}")


def _validate(section: type[S], plain: Any) -> S:
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        raise RecipeError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # A union reports a branch for each of its types; the path to the key ends where those begin.
    path = ".".join(str(part) for part in first["loc"] if not _is_branch(str(part)))
    if first["type"] == "extra_forbidden":
        return f"no key '{path}' in this recipe."
    rule = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, such as [4, 16, 16]")
    if "' or '" in rule and isinstance(first["input"], str):
        rule += f"; {did_you_mean(first['input'], rule.split(chr(39))[1::2])}"
    alike = [e["msg"] for e in error.errors(include_url=False) if e["loc"][:1] == first["loc"][:1] and e is not first]
    if alike and _is_branch(str(first["loc"][-1])):
        rule = " or ".join(dict.fromkeys([rule, *alike]))
    name = f"{path}={first['input']!r}: " if path and not isinstance(first["input"], Mapping) else ""
    return f"{name}{rule[:1].lower() + rule[1:]}" + ("" if rule.endswith((".", "?")) else ".")


def _is_branch(part: str) -> bool:
    return part.startswith(("literal[", "tuple[", "constrained-", "function-", "nullable")) or part in ("int", "float")


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, mechanics and description aside: dotted key → (old, new)."""

    def flat(recipe: Recipe) -> dict[str, Any]:
        plain = {k: v for k, v in recipe.plain().items() if k not in ("run", "about")}
        leaves = {}
        for path in _paths(plain):
            value: Any = plain
            for part in path:
                value = value[part]
            if not isinstance(value, Mapping):
                leaves[".".join(path)] = value
        return leaves

    one, two = flat(old), flat(new)
    return {k: (one.get(k), two.get(k)) for k in [*one, *(set(two) - set(one))] if one.get(k) != two.get(k)}


# ── Presets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def preset_names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset, or the path itself if it names a YAML file.

    Raises:
        RecipeError: Neither a preset nor a file.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RecipeError(f"no recipe at '{name}': give the path of a YAML file, or a preset (`ectype presets`).")
        return Path(name)
    if name not in preset_names():
        raise RecipeError(f"no preset '{name}'; {did_you_mean(name, preset_names())}")
    return PRESETS / f"{name}.yaml"


def preset_table() -> list[About]:
    """What each preset says of itself."""
    return [About.model_validate(_read(PRESETS / f"{name}.yaml").get("about", {})) for name in preset_names()]


def load_recipe(name: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """A recipe from a preset's name, a YAML file or plain values, with changes.

    Args:
        name: Preset, path of a YAML file, or a mapping.
        overrides: `key=value` texts as typed, or a mapping of keys to values.

    Raises:
        RecipeError: See `Recipe.override` and `preset_path`.
    """
    plain = name if isinstance(name, Mapping) else _read(preset_path(str(name)))
    return _validate(Recipe, plain).override(_pairs(overrides))


def data_recipe(source: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> DataConfig:
    """The data section alone, for what needs no model.

    Raises:
        RecipeError: See `Recipe.override`.
    """
    plain = {"data": DataConfig(source=source).model_dump(mode="json")}
    return _validate(DataConfig, _changed(plain, _pairs(overrides))["data"])


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(overrides, Mapping):
        return overrides
    pairs = [text.partition("=") for text in overrides]
    if wrong := [key for key, sign, _ in pairs if not sign or not key]:
        raise RecipeError(f"'{wrong[0]}' is no override: write key=value, as in latent_dim=8.")
    return {key.strip(): value for key, _, value in pairs}


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise RecipeError(f"'{path}' is no recipe: it should hold sections such as data, model and objective.")
    return plain


# ── Finding the kinds ────────────────────────────────────────────────────────────────────────────────────────────────

_PACKAGES = ("ectype.nets", "ectype.models", "ectype.objectives")


@cache
def discover() -> None:
    """Import the modules that define kinds: ours, installed plug-ins, and files named in `ECTYPE_PLUGINS`.

    A plug-in is a package with an entry point in the group `ectype.plugins`, or a Python file whose path the *user* put
    into the environment variable `ECTYPE_PLUGINS` (several joined as in PATH). Recipes and checkpoints name no code.
    """
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{name}."):
            importlib.import_module(module.name)
    for entry in importlib.metadata.entry_points(group="ectype.plugins"):
        entry.load()
    for path in filter(None, os.environ.get("ECTYPE_PLUGINS", "").split(os.pathsep)):
        spec = importlib.util.spec_from_file_location(f"ectype_plugin_{Path(path).stem}", path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise RecipeError(f"ECTYPE_PLUGINS names '{path}', which is no Python file.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
