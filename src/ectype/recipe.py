"""A recipe: everything that defines a run, read from YAML and changed by `key=value`; presets are recipes that ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ectype.errors import RecipeError, did_you_mean
from ectype.sections import (
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

__all__ = [
    "Recipe",
    "data_recipe",
    "within",
    "differences",
    "load_recipe",
    "preset_names",
    "preset_path",
    "preset_table",
]

PRESETS = Path(__file__).parent / "recipes"

S = TypeVar("S", bound=Section)


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

        A key is a dotted path or its end (`latent_dim`, `optimizer.lr`). An end that fits several paths means the
        shortest (`loss` is `objective.loss`, not `objective.adversary.loss`); where several are as short it is refused
        with all of them named. Values are Python values or the text a user typed. A word given to a section that has no
        kinds means the one other key of that name, if there is one: `train=decoder`.

        A mapping given to a section changes only the keys it has; given to a free mapping, such as losses by weight, it
        replaces all of it.

        Raises:
            RecipeError: An unknown or ambiguous key, or a value its key does not admit.
        """
        return _validate(Recipe, _one_budget(_changed(self, changes), changes))


def _one_budget(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A budget in images that is given takes the place of one in time, which would count else."""
    named = {_find(plain, key) for key in changes}
    images, minutes = (("train", key) in named for key in ("images", "minutes"))
    if images and minutes and plain["train"]["minutes"] is not None:
        raise RecipeError(
            f"two budgets, train.images={plain['train']['images']} and train.minutes={plain['train']['minutes']}: "
            "leave one out."
        )
    if images and not minutes:
        plain["train"]["minutes"] = None
    return plain


def _changed(section: Section, changes: Mapping[str, Any]) -> dict[str, Any]:
    plain = section.model_dump(mode="json", serialize_as_any=True)
    for key, value in changes.items():
        new = _value(value) if isinstance(value, str) else value
        path = _find(plain, key)
        if isinstance(new, str):
            path = _no_section(section, plain, path)
        node, held = plain, section
        for part in path[:-1]:
            node, held = node[part], getattr(held, part, None)
        free = isinstance(getattr(held, path[-1], None), Mapping)
        node[path[-1]] = new if free else _merge(node.get(path[-1]), new)
    return plain


def _value(text: str) -> Any:
    """Read a value as YAML does, and the floats that YAML 1.1 takes for text (1e-3)."""
    if text.lstrip().startswith("#"):  # a colour, not a comment
        return text.strip()
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
    shortest = [path for path in fits if len(path) == min(map(len, fits))]
    if len(shortest) == 1:
        return shortest[0]
    if fits:
        names = ", ".join(".".join(path) for path in fits)
        raise RecipeError(f"'{key}' fits several keys: {names}; write one in full.")
    if len(parts) > 1 and parts[:-1] in (("optimizer", "players"), ("players",)):
        return ("optimizer", "players", parts[-1])
    names = {".".join(path[-len(parts) :]) for path in paths} | {path[-1] for path in paths}
    raise RecipeError(f"no key '{key}' in this recipe; {did_you_mean(key, names)}")


def _no_section(section: Section, plain: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """The path, or where it is of a section that cannot be a word, that of the one other key of its name that can."""

    def held(path: tuple[str, ...]) -> Any:
        found: Any = section
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
        return found

    if not isinstance(held(path), Section) or isinstance(held(path), Choice):
        return path
    others = [other for other in _paths(plain) if other[-1] == path[-1] and not isinstance(held(other), Section)]
    return others[0] if len(others) == 1 else path


def _validate(section: type[S], plain: Any) -> S:
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        raise RecipeError(_one_line(error)) from None


def _one_line(error: ValidationError) -> str:
    errors = error.errors(include_url=False)
    # A union reports a branch for each of its types, which is no part of the path to the key; an entry that a list
    # lacks is the list's fault.
    places = [e["loc"][:-1] if e["type"] == "missing" and isinstance(e["loc"][-1], int) else e["loc"] for e in errors]
    paths = [".".join(str(part) for part in place if not _is_branch(str(part))) for place in places]
    within = (i for i, where in enumerate(paths) if where.startswith(f"{paths[0]}."))
    which = next(within, 0) if isinstance(errors[0]["input"], list | tuple) else 0
    first, path = errors[which], paths[which]
    if first["type"] == "extra_forbidden":
        return f"no key '{path}' in this recipe."
    alike = [e for e, where in zip(errors, paths, strict=True) if where == path]
    rules = list(dict.fromkeys(map(_rule, alike)))
    if None in rules:
        said = next(e for e in alike if _rule(e) is None)["msg"]
        rule = said.removeprefix("Value error, ")
        rule = rule[:1].lower() + rule[1:]
    else:
        # A value of the right type that is too large says more than those that are of another type.
        bounds = [text for text in rules if text is not None and text.startswith(tuple(BOUNDS.values()))]
        *most, last = map(str, bounds or rules)
        rule = "must be " + (f"{', '.join(most)} or {last}" if most else last)
        words = [word for text in rules if text is not None for word in text.split("'")[1::2]]
        if (hint := did_you_mean(str(first["input"]), words)).startswith("did"):
            rule += f"; {hint}"
    name = f"{path}={first['input']!r}: " if path and not isinstance(first["input"], Mapping) else ""
    return f"{name}{rule}" + ("" if rule.endswith((".", "?")) else ".")


BOUNDS = {"greater_than_equal": "at least", "greater_than": "above", "less_than_equal": "at most", "less_than": "below"}
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "a word"}
TYPES |= dict.fromkeys(("tuple", "list"), "a list in brackets")
TYPES |= {"dict": "names with values, such as {name: 1}", "model": "keys with values, such as {key: 1}"}


def _rule(error: ErrorDetails) -> str | None:
    """What a value must be, in words of ours; None where pydantic's say it."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in BOUNDS:
        return f"{BOUNDS[kind]} {next(iter(context.values())):g}"
    if kind == "literal_error":
        return context["expected"]
    if kind in ("missing", "too_short", "too_long"):
        return f"a list of at most {context['max_length']}" if kind == "too_long" else "a longer list"
    what, _, how = kind.partition("_")
    return TYPES.get(what) if how in ("type", "parsing", "from_float", "attributes_type") else None


def _is_branch(part: str) -> bool:
    kinds = ("literal[", "tuple[", "constrained-", "function-", "nullable")
    return part.startswith(kinds) or part in ("int", "float", "str", "bool")


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
    """The file of a preset, or the path itself if it names a YAML or JSON file.

    Raises:
        RecipeError: Neither a preset nor a file.
    """
    if name.endswith((".yaml", ".yml", ".json")):  # all JSON is YAML
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
    held = _DataOnly(data=DataConfig(source=source))
    return _validate(_DataOnly, _changed(held, within(source, _pairs(overrides)))).data


def within(folder: str, overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Overrides beside a folder that is named already: their `source` can only be the folder of the images within.

    Raises:
        RecipeError: Images that do not come in pairs, named twice.
    """
    found = dict(_pairs(overrides))
    named = [key for key in ("source", "data.source") if key in found]
    if named:
        inner = found.pop(named[0])
        if "target" not in found and "data.target" not in found:
            raise RecipeError(f"images named twice, '{folder}' and source={inner}: leave one out.")
        found["data.input"] = inner
    return found


class _DataOnly(Section):
    """What a recipe is where there is no model, so that keys are typed alike."""

    data: DataConfig


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
