"""Your own `nn.Module` as a part of a model: registered under a name, used by that name in recipes.

A recipe, a run and a saved model hold the name only, never the code. To load a run that uses your module, register it
first, in the same script or in a file named by the environment variable `ECTYPE_PLUGINS`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch
from torch import nn

from ectype.config.recipe import Recipe, load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, RecipeError, did_you_mean

__all__ = [
    "ModuleNotRegistered",
    "build_registered",
    "error_text",
    "overrides_for",
    "register_module",
    "registered_modules",
]

Factory = Callable[[DataInfo], nn.Module]
F = TypeVar("F", bound=Factory)
_modules: dict[str, nn.Module | Factory] = {}


class ModuleNotRegistered(ModelError):
    """A recipe or a saved model names a module that this process does not know."""


@overload
def register_module(name: str) -> Callable[[F], F]: ...
@overload
def register_module(name: str, module: nn.Module | Factory) -> nn.Module | Factory: ...
def register_module(name: str, module: Any = None) -> Any:
    """Make your own module usable in recipes by a name.

    Where it is used, in a recipe or by `ectype.train(…, encoder=…, decoder=…, generator=…, critic=…)`:

    | part | gets | returns |
    |---|---|---|
    | encoder | images [b, c, h, w] in [0, 1] | the code [b, d] or [b, d, y, x]; twice as many channels for a VAE |
    | decoder | codes | [b, c, h, w], unbounded: the likelihood brings it to [0, 1] |
    | generator | noise [b, latent_dim] | [b, c, h, w], about −1 to 1 |
    | critic | images [b, c, h, w] in [−1, 1] | scores [b], [b, 1] or [b, 1, y, x]; or features [b, f] |

    Shapes are checked when the model is built.

    Args:
        name: Letters, digits and -._ only. A name that exists already is replaced.
        module: A function of `DataInfo` (channels, size, classes of the images) that builds the module, such as its
            class; or an `nn.Module`, of which each model gets a copy with these weights. Leave it out to use
            `register_module` as a decorator.

    Returns:
        The module or function, unchanged.

    Raises:
        ModelError: An invalid name, or something that is neither a module nor a function.

    Example:
        >>> from torch import nn
        >>> from ectype.nets.registered_kinds import RegisteredCoderConfig
        >>> @register_module("pixels")
        ... def pixels(info):
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(info.channels * info.size[0] * info.size[1], 8))
        >>> RegisteredCoderConfig(encoder="pixels", latent_dim=8).encoder(DataInfo(1, (16, 16)), 1)[1]
        Linear(in_features=256, out_features=8, bias=True)
    """
    if module is None:
        return lambda factory: register_module(name, factory)
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise ModelError(f"a module cannot be registered as {name!r}: use letters, digits and -._ only.")
    if isinstance(module, nn.Module):
        _modules[name] = _copied(name, module)
    elif callable(module):
        _modules[name] = cast(Factory, module)
    else:
        raise ModelError(
            f"module '{name}' is of type {type(module).__name__}: pass an nn.Module, or a function of DataInfo that "
            "builds one."
        )
    return module


def registered_modules() -> list[str]:
    """Return the names of all registered modules, sorted."""
    return sorted(_modules)


def _copied(name: str, module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a user's own class
        raise ModelError(
            f"module '{name}' cannot be copied ({type(error).__name__}: {error}): pass a function that builds it."
        ) from error


def build_registered(name: str, info: DataInfo) -> nn.Module:
    """Build a registered module.

    Raises:
        ModuleNotRegistered: There is none of that name.
        ModelError: Its function fails, or returns something else.
    """
    if name not in _modules:
        hint = f" ({did_you_mean(name, _modules)[:-1]})" if _modules else ""
        raise ModuleNotRegistered(
            f"this model uses the module '{name}': register it with ectype.register_module before training or "
            f"loading{hint}."
        )
    held = _modules[name]
    if isinstance(held, nn.Module):
        built = _copied(name, held)
        return built.to("meta") if _on_meta() else built
    try:
        built = held(info)
    except Exception as error:
        raise ModelError(f"module '{name}' cannot be built ({type(error).__name__}: {error_text(error)}).") from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"the function of module '{name}' returned a {type(built).__name__}: return an nn.Module.")
    return built


def _on_meta() -> bool:
    """Whether tensors are created without values, as when a saved model is checked."""
    return torch.empty(0).device.type == "meta"


def error_text(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:200]


# ── Objects in place of names ────────────────────────────────────────────────────────────────────────────────────────


def overrides_for(
    recipe: str | Path | Recipe | Mapping[str, Any] | None = None,
    *,
    encoder: nn.Module | Factory | str | None = None,
    decoder: nn.Module | Factory | str | None = None,
    generator: nn.Module | Factory | str | None = None,
    critic: nn.Module | Factory | str | None = None,
) -> dict[str, Any]:
    """Register modules and return the overrides that put them into a recipe.

    A module is registered under a name derived from its class or function (`MyEncoder` → `my-encoder`); a text is the
    name of one that is registered already.

    Args:
        recipe: The recipe that is overridden, as `ectype.train` takes it. What is not replaced is kept from it: the
            other network, and the code. Without one, the missing encoder or decoder is convolutional.
        encoder: An `nn.Module`, a function of `DataInfo` that builds one, or a registered name.
        decoder: The same.
        generator: The same.
        critic: The same.

    Returns:
        Overrides for `Recipe.override`; empty if nothing is given.

    Raises:
        ModelError: A function without a name, or something that is neither a module nor a function.
        RecipeError: The recipe has no such part.

    Example:
        >>> class MyCritic(nn.Module):
        ...     pass
        >>> overrides_for(critic=MyCritic())
        {'objective.adversary.critic': {'kind': 'registered', 'name': 'my-critic'}}
    """
    plain = _plain(recipe)
    found: dict[str, Any] = {}
    if encoder is not None or decoder is not None:
        if generator is not None:
            raise RecipeError("an encoder or decoder and a generator are parts of different models: pass one of them.")
        net: dict[str, Any] = {"kind": "registered"}
        for role, part in (("encoder", encoder), ("decoder", decoder)):
            if part is not None:
                net[role] = _name_of(role, part)
        held = _part(plain, "model", "net", need="bottleneck", what="an encoder and decoder")
        if held is not None and (encoder is None or decoder is None):
            net["base"] = held
        net |= {key: (held or {}).get(key) for key in ("latent_dim", "latent")}  # named, so that overrides find them
        found["model.net"] = net
        if isinstance(decoder, nn.Module) and (held is None or "start_at_mean" in (plain or {}).get("model", {})):
            found["model.start_at_mean"] = False  # its weights are the start
    if generator is not None:
        _part(plain, "model", "net", need="latent_dim", what="a generator")
        found["model.net"] = {"kind": "registered", "name": _name_of("generator", generator)}
    if critic is not None:
        _part(plain, "objective", "adversary", what="a critic")
        found["objective.adversary.critic"] = {"kind": "registered", "name": _name_of("critic", critic)}
    return found


def _plain(recipe: str | Path | Recipe | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if recipe is None:
        return None
    return (recipe if isinstance(recipe, Recipe) else load_recipe(recipe)).plain()


def _part(
    plain: dict[str, Any] | None, section: str, key: str, *, what: str, need: str | None = None
) -> dict[str, Any] | None:
    """A part of a recipe, without what is registered already; None without a recipe. Raises `RecipeError`."""
    if plain is None:
        return None
    held = plain[section].get(key)
    if held is None or (need is not None and need not in plain[section]):
        raise RecipeError(
            f"the recipe '{plain['about']['name']}' has no {what.removeprefix('an ').removeprefix('a ')} to replace: "
            f"choose one with {what}."
        )
    return held["base"] if held.get("kind") == "registered" and held.get("base") else held


def _name_of(role: str, part: nn.Module | Factory | str) -> str:
    """The name of a part, which is registered if it is no text."""
    if isinstance(part, str):
        return part
    kind = type(part) if isinstance(part, nn.Module) else part
    name = getattr(kind, "__name__", "")
    if not name or name == "<lambda>":
        raise ModelError(
            f"the {role} has no name by which it could be found again: register it, "
            f"ectype.register_module('my-{role}', …), and pass that name."
        )
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", name).strip("-").lower()
    # Sequential and the like say nothing of what they hold.
    name = f"{role}-{name}" if getattr(kind, "__module__", "").startswith("torch.nn") else name
    register_module(name, part)
    return name
