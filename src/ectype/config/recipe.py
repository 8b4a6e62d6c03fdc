"""Recipes: everything that defines a run, read from YAML and changed by `key=value`; presets are ready-made recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ectype.config.error_text import validation_error_text
from ectype.config.schema import (
    About,
    Choice,
    DataConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    Section,
    TrainConfig,
)
from ectype.config.yaml_text import parse_yaml, read_yaml
from ectype.core.errors import RecipeError, did_you_mean

__all__ = [
    "Recipe",
    "data_recipe",
    "differences",
    "load_recipe",
    "parse_overrides",
    "merge_source_override",
    "preset_names",
    "preset_path",
    "preset_table",
]

PRESETS = Path(__file__).parent / "presets"

S = TypeVar("S", bound=Section)


class Recipe(Section):
    """Everything that defines a run. Equal recipes on equal data compute equal weights, whatever `run` is."""

    about: About = About()
    data: DataConfig = DataConfig()
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    run: RunConfig = RunConfig()

    def plain(self) -> dict[str, Any]:
        """Return the recipe as nested plain values, with every key."""
        return self.model_dump(mode="json", serialize_as_any=True)

    def non_defaults(self) -> dict[str, Any]:
        """Return the recipe as nested plain values, with the keys that differ from the defaults of their kinds.

        A section of a kind keeps its `kind`. `load_recipe` reads the same recipe from the result.
        """
        return _non_defaults(self)

    def yaml(self, *, full: bool = True) -> str:
        """Return the recipe as YAML.

        Args:
            full: Whether every key is written, or only those that differ from the defaults, as in a preset's file.
        """
        plain = self.plain() if full else self.non_defaults()

        def dump(part: dict[str, Any], flow: bool | None) -> str:
            return yaml.safe_dump(part, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=120)

        about = {"about": plain.pop("about")} if "about" in plain else {}
        return (dump(about, False) if about else "") + "".join(dump({k: v}, None) for k, v in plain.items())

    def override(self, changes: Mapping[str, Any]) -> Recipe:
        """Return a copy with some keys changed.

        A key is a dotted path or its end (`latent_dim`, `optimizer.lr`). If an end matches several paths, the shortest
        is meant (`loss` is `objective.loss`, not `objective.adversary.loss`); if several are equally short, it is an
        error that names them all. Values are Python values or text as typed by a user. A word that is given to a
        section without kinds is meant for the one other key of that name, if there is one: `train=decoder`.

        A mapping that is given to a section changes only the keys it contains; one that is given to a free mapping,
        such as losses with weights, replaces it.

        >>> load_recipe("vae").override({"latent_dim": 8, "lr": "3e-4"}).optimizer.lr
        0.0003

        Raises:
            RecipeError: An unknown or ambiguous key, or a value that the key does not accept.
        """
        return _validate(Recipe, _resolve_budget(_apply(self, changes), changes))


def _non_defaults(section: Section) -> dict[str, Any]:
    plain, result = section.model_dump(mode="json", serialize_as_any=True), {}
    fields = {name: field.serialization_alias or name for name, field in type(section).model_fields.items()}
    if not set(fields.values()) <= set(plain):
        return plain  # the section has a serializer of its own
    for name, key in fields.items():
        value, default = getattr(section, name), type(section).model_fields[name].get_default(call_default_factory=True)
        if value == default and not (isinstance(section, Choice) and name == "kind"):
            continue
        if isinstance(value, Section):
            result[key] = _non_defaults(value)
        elif isinstance(value, Mapping):
            inner = {k: _non_defaults(v) if isinstance(v, Section) else plain[key][k] for k, v in value.items()}
            result[key] = inner
        else:
            result[key] = plain[key]
    return result


def _resolve_budget(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Drop `train.minutes`, which would take precedence, if the changes give a budget in images."""
    changed = {_find(plain, key) for key in changes}
    images, minutes = (("train", key) in changed for key in ("images", "minutes"))
    if images and minutes and plain["train"]["minutes"] is not None:
        raise RecipeError(
            f"two budgets, train.images={plain['train']['images']} and train.minutes={plain['train']['minutes']}: "
            "leave one out."
        )
    if images and not minutes:
        plain["train"]["minutes"] = None
    return plain


def _apply(section: Section, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section as plain values, with changes."""
    plain = section.model_dump(mode="json", serialize_as_any=True)
    for key, value in changes.items():
        new = _parse_value(value) if isinstance(value, str) else value
        path = _find(plain, key)
        if isinstance(new, str):
            path = _redirect_word(section, plain, path)
        node, parent = plain, section
        for part in path[:-1]:
            node, parent = node[part], getattr(parent, part, None)
        is_free_mapping = isinstance(getattr(parent, path[-1], None), Mapping)
        merged = new if is_free_mapping else _merge(node.get(path[-1]), new)
        node[path[-1]] = _with_defaults(getattr(parent, path[-1], None), merged)
    return plain


def _with_defaults(current: Any, new: Any) -> Any:
    """Return plain values of another kind than the current section's with all keys, so that later changes find them."""
    if not isinstance(current, Choice) or not isinstance(new, dict) or new.get("kind") == current.kind:
        return new
    family = next(base for base in type(current).__mro__ if Choice in base.__bases__)
    try:
        return family.model_validate(new).model_dump(mode="json", serialize_as_any=True)
    except ValidationError:
        return new  # the complete recipe is validated later, with a message that names the key


def _parse_value(text: str) -> Any:
    """Parse a value as YAML does, and also floats that YAML 1.1 takes for text (1e-3)."""
    if text.lstrip().startswith("#"):  # a color, not a comment
        return text.strip()
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if "occurs twice" in str(error):
            raise RecipeError(f"'{text[:80]}': {' '.join(str(error).split())}.") from None
        return text
    except RecipeError as error:
        if text.lstrip().startswith(("[", "{")):
            raise RecipeError(f"'{text[:80]}': {error}") from None
        return text  # *.png is a word, and not an alias
    if isinstance(value, str) and value.isascii():  # float() would also take the digits of other scripts
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _merge(old: Any, new: Any) -> Any:
    """Update a mapping of the same kind with the keys of a new one; replace anything else."""
    if isinstance(old, dict) and isinstance(new, Mapping) and new.get("kind", old.get("kind")) == old.get("kind"):
        return {**old, **new}
    if isinstance(old, dict) and "kind" in old and isinstance(new, str):
        return old if new == old["kind"] else {"kind": new}
    return new


def _paths(node: Mapping[str, Any], parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        yield (*parent, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*parent, key))


def _find(plain: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the path that a key, complete or abbreviated, means."""
    parts = tuple(key.split("."))
    paths = list(_paths(plain))
    matches = [path for path in paths if path[-len(parts) :] == parts]
    if (exact := [path for path in matches if path == parts]) or len(matches) == 1:
        return (exact or matches)[0]
    shortest = [path for path in matches if len(path) == min(map(len, matches))]
    if len(shortest) == 1:
        return shortest[0]
    if matches:
        names = ", ".join(".".join(path) for path in matches)
        raise RecipeError(f"'{key}' matches several keys: {names}; write one in full.")
    if len(parts) > 1 and parts[:-1] in (("optimizer", "players"), ("players",)):
        return ("optimizer", "players", parts[-1])
    names = {".".join(path[-len(parts) :]) for path in paths} | {path[-1] for path in paths}
    raise RecipeError(f"no key '{key}' in this recipe; {did_you_mean(key, names)}")


def _redirect_word(section: Section, plain: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path; if it is a section that no word can replace, that of the one other key of the same name."""

    def get(path: tuple[str, ...]) -> Any:
        value: Any = section
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        return value

    if not isinstance(get(path), Section) or isinstance(get(path), Choice):
        return path
    others = [other for other in _paths(plain) if other[-1] == path[-1] and not isinstance(get(other), Section)]
    return others[0] if len(others) == 1 else path


def _validate(section: type[S], plain: Any) -> S:
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        raise RecipeError(validation_error_text(error)) from None


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ: dotted key → (old, new). `run` and `about` are not compared."""

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
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the file of a preset, or the path itself if it names a YAML or JSON file.

    Raises:
        RecipeError: Neither a preset nor an existing file.
    """
    if name.endswith((".yaml", ".yml", ".json")):  # all JSON is YAML
        if not Path(name).is_file():
            raise RecipeError(f"no recipe at '{name}': give the path of a YAML file, or a preset (`ectype presets`).")
        return Path(name)
    if name not in preset_names():
        raise RecipeError(f"no preset '{name}'; {did_you_mean(name, preset_names())}")
    return PRESETS / f"{name}.yaml"


def preset_table() -> list[About]:
    """Return the descriptions of all presets, sorted by name."""
    return [About.model_validate(_read(PRESETS / f"{name}.yaml").get("about", {})) for name in preset_names()]


def load_recipe(name: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Return the recipe of a preset, a YAML file or plain values, with changes. Keys that are left out get defaults.

    >>> load_recipe("vae", ["latent_dim=8"]).model.net.latent_dim
    8

    Args:
        name: Name of a preset, path of a YAML or JSON file, or a mapping.
        overrides: `key=value` texts as typed by a user, or a mapping from keys to values.

    Raises:
        RecipeError: See `Recipe.override` and `preset_path`.
    """
    plain = name if isinstance(name, Mapping) else _read(preset_path(str(name)))
    return _validate(Recipe, plain).override(parse_overrides(overrides))


def data_recipe(source: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> DataConfig:
    """Return the data section alone, for commands that need no model.

    Raises:
        RecipeError: See `Recipe.override`.
    """
    recipe = _DataOnly(data=DataConfig(source=source))
    return _validate(_DataOnly, _apply(recipe, merge_source_override(source, parse_overrides(overrides)))).data


def merge_source_override(folder: str, overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides for images whose folder is given already: `source` then names the input folder inside of it.

    Raises:
        RecipeError: `source` is overridden although the images are not pairs.
    """
    merged = dict(parse_overrides(overrides))
    keys = [key for key in ("source", "data.source") if key in merged]
    if keys:
        inner = merged.pop(keys[0])
        if "target" not in merged and "data.target" not in merged:
            raise RecipeError(f"images named twice, '{folder}' and source={inner}: leave one out.")
        merged["data.input"] = inner
    return merged


class _DataOnly(Section):
    """A recipe without a model, so that the keys of its data section are written as in a complete one."""

    data: DataConfig


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return overrides as a mapping.

    Raises:
        RecipeError: A text is not `key=value`, or a key occurs twice.
    """
    if isinstance(overrides, Mapping):
        return overrides
    pairs = [text.partition("=") for text in overrides]
    if wrong := [key for key, sign, _ in pairs if not sign or not key]:
        raise RecipeError(f"'{wrong[0]}' is not an override: write key=value, as in latent_dim=8.")
    keys = [key.strip() for key, _, _ in pairs]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise RecipeError(f"'{twice}' is set {keys.count(twice)} times: leave all but one out.")
    return {key: value for key, (_, _, value) in zip(keys, pairs, strict=True)}


def _read(path: Path) -> dict[str, Any]:
    plain = read_yaml(path)
    if not isinstance(plain, dict):
        raise RecipeError(f"'{path}' is not a recipe: it has to contain sections such as data, model and objective.")
    return plain
