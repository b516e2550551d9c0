"""The settings of a strategy: the fields of its dataclass, checked by their types."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..spaces import StudyError, nearest
from .base import Searcher


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a strategy.

    Attributes:
        name: Its name.
        type: Its type, as text.
        default: The value it has if none is given; None if it is required.
        required: Whether there is no default.
    """

    name: str
    type: str
    default: Any
    required: bool


def settings_of(cls: type[Searcher]) -> tuple[Setting, ...]:
    """Return the settings of a class, in order."""
    hints = typing.get_type_hints(cls)
    return tuple(
        Setting(field.name, _spell(hints[field.name]), _default(field), _required(field))
        for field in _fields(cls)
    )


def configure(
    cls: type[Searcher], settings: Mapping[str, Any], name: str | None = None
) -> Searcher:
    """Return a strategy of a class with checked settings.

    Args:
        cls: The class.
        settings: As for `build`.
        name: How messages call it; the class's name if None.

    Raises:
        StudyError: As `build`.
    """
    name = name or cls.__name__
    fields = {field.name: field for field in _fields(cls)}
    for given in settings:
        if given not in fields:
            known = nearest(given, fields) if fields else "it has none"
            raise StudyError(f"{name} has no setting {given!r}; {known}")
    for field in fields.values():
        if _required(field) and field.name not in settings:
            raise StudyError(f"{name} needs the setting {field.name!r}")
    hints = typing.get_type_hints(cls)
    values = {
        key: _convert(f"{name}: setting {key!r}", value, hints[key])
        for key, value in settings.items()
    }
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # the strategy's own checks, BitfrontErrors among them
        raise StudyError(f"{name}: {error}") from error


def _fields(cls: type[Searcher]) -> list[dataclasses.Field[Any]]:
    if not dataclasses.is_dataclass(cls):
        return []
    return [field for field in dataclasses.fields(cls) if field.init]


def _required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _convert(where: str, value: Any, hint: Any) -> Any:
    """Return a plain value as the type a field declares; JSON's rules, nothing guessed.

    Strict JSON is what is wanted: a list may stand for a tuple and 3 for 3.0, but not "3" for 3
    nor 1 for true.
    """
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise StudyError(
            f"{where} must be {_spell(hint)}, got {value!r}"
            + (f" (at {place}: {first['input']!r})" if place else "")
        ) from None
    except TypeError:
        raise StudyError(f"{where} must be plain values, got {value!r}") from None


def _spell(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return text.replace("typing.", "").replace("NoneType", "None")
