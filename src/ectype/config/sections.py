"""The base classes of a recipe's sections, and the types that several sections share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ectype.config.registry import import_kinds
from ectype.core.errors import did_you_mean

__all__ = ["Choice", "Count", "Factor", "Section", "Side", "Weight", "Weights", "parse_count"]


def parse_count(value: Any) -> Any:
    """Read a count with a suffix or separators: 2M, 500k, 1_000.

    Anything that is not such a count is returned unchanged, so that pydantic reports it.

    >>> parse_count("1.5k")
    1500
    """
    if isinstance(value, str) and value.isascii():
        text = value.strip().replace("_", "")
        factor = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:].lower(), 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


Count = Annotated[int, Field(le=10**15), BeforeValidator(parse_count)]
"""A whole number that may be written with a suffix: 500k, 2M."""
Side = Annotated[int, Field(ge=1, le=16_384)]
"""Channels, or height or width in pixels, of a map."""
Factor = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A factor or shift of values."""
Weight = Annotated[float, Field(ge=0, le=1e6)]
"""The weight of a loss."""


def _single_weight(value: Any) -> Any:
    return {value: 1.0} if isinstance(value, str) and value else value


Weights = Annotated[dict[str, Weight], BeforeValidator(_single_weight)]
"""Losses with their weights; a name alone means that loss with weight 1."""


class Section(BaseModel):
    """A part of a recipe. It is immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(Section):
    """A section whose `kind` decides which keys it has.

    A direct subclass is a family (such as `ModelConfig`). Its subclasses are the kinds; each declares
    `kind: Literal["name"] = "name"`. Validating a mapping against the family validates it against the kind it names.
    """

    kind: str
    family: ClassVar[str] = ""
    """What the family is called in error messages."""
    _kinds: ClassVar[dict[str, type[Choice]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if Choice in cls.__bases__:
            cls._kinds = {}
        elif isinstance(default := cls.model_fields["kind"].default, str):  # others are bases of kinds
            cls._kinds[default] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _validate_by_kind(cls, value: Any, handler: Any) -> Any:
        if Choice not in cls.__bases__ or not isinstance(value, Mapping):
            return handler(value)
        import_kinds()
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in cls._kinds:
            raise ValueError(f"no {cls.family} of kind {kind!r}; {did_you_mean(str(kind), cls._kinds)}")
        return cls._kinds[kind].model_validate(value)
