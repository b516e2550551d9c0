"""Strategies by name: our own, those of installed packages, and any class by its address."""

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..spaces import StudyError, nearest
from .base import Searcher

ENTRY_POINT_GROUP = "bitfront.searchers"
"""Packages that ship strategies declare them in this group: ``name = "package.module:Class"``."""

S = TypeVar("S", bound=type[Searcher])

_registered: dict[str, type[Searcher]] = {}


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


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know of a strategy before it runs.

    Attributes:
        name: The name it is asked for by.
        summary: One sentence that says what it does.
        paper: Where the method was published; empty if it was not.
        granularities: The spaces it can search.
        needs_model: Whether it looks into the network.
        deterministic: Whether the seed makes no difference.
        settings: Its settings, in order.
    """

    name: str
    summary: str
    paper: str
    granularities: tuple[str, ...]
    needs_model: bool
    deterministic: bool
    settings: tuple[Setting, ...]


def register(name: str) -> Callable[[S], S]:
    """Return a class decorator that makes a strategy known by a name.

    Args:
        name: The word used in studies.

    Raises:
        StudyError: If the name belongs to another class already.

    Examples:
        >>> from bitfront.searchers import Searcher, register
        >>> @register("random")
        ... class Mine(Searcher):
        ...     def search(self, problem): ...
        Traceback (most recent call last):
        bitfront.spaces.errors.StudyError: strategy name 'random' is taken by ...
    """

    def decorate(cls: S) -> S:
        taken = _registered.setdefault(name, cls)
        if _address(taken) != _address(cls):
            raise StudyError(f"strategy name {name!r} is taken by {_address(taken)}")
        _registered[name] = cls
        return cls

    return decorate


def strategy_names() -> list[str]:
    """Return the names of all strategies, ours and those of installed packages, sorted."""
    return sorted({*_registered, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def get(name: str) -> type[Searcher]:
    """Return the class of a strategy.

    Args:
        name: A registered name, a name an installed package declares, or ``module:Class``.

    Raises:
        StudyError: If there is no such strategy, it cannot be imported, or two claim the name.
    """
    if ":" in name:
        return _load(EntryPoint(name=name, value=name, group=ENTRY_POINT_GROUP))
    found = {_address(cls): cls for cls in [_registered[name]]} if name in _registered else {}
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        cls = _load(point)
        found[_address(cls)] = cls
    if not found:
        raise StudyError(f"unknown strategy {name!r}; {nearest(name, strategy_names())}")
    if len(found) > 1:
        raise StudyError(
            f"strategy name {name!r} is claimed by {' and '.join(sorted(found))}; "
            f"name the one you mean as module:Class"
        )
    return next(iter(found.values()))


def build(name: str, settings: Mapping[str, Any] | None = None) -> Searcher:
    """Return a strategy with checked settings.

    Args:
        name: As for `get`.
        settings: Setting -> value, as JSON or YAML has them: lists stand for tuples.

    Raises:
        StudyError: If a setting is unknown, missing, of the wrong type, or refused by the
            strategy itself.

    Examples:
        >>> from bitfront.searchers import build
        >>> build("uniform", {"widths": [8, [4, 8]]})
        Uniform(widths=(8, (4, 8)))
        >>> build("uniform", {"width": [8]})
        Traceback (most recent call last):
        bitfront.spaces.errors.StudyError: uniform has no setting 'width'; did you mean 'widths'?
    """
    return configure(get(name), settings or {}, name)


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


def describe(name: str) -> Description:
    """Return what there is to know of a strategy before it runs.

    Args:
        name: As for `get`.

    Raises:
        StudyError: As `get`.

    Examples:
        >>> from bitfront.searchers import describe
        >>> describe("uniform").settings[0].name
        'widths'
    """
    cls = get(name)
    hints = typing.get_type_hints(cls)
    return Description(
        name=name,
        summary=cls.summary,
        paper=cls.paper,
        granularities=tuple(sorted(cls.granularities)),
        needs_model=cls.needs_model,
        deterministic=cls.deterministic,
        settings=tuple(
            Setting(field.name, _spell(hints[field.name]), _default(field), _required(field))
            for field in _fields(cls)
        ),
    )


def _load(point: EntryPoint) -> type[Searcher]:
    """Import the class an entry point (or ``module:Class``) names."""
    module, _, attribute = point.value.partition(":")
    try:
        cls = import_module(module)
        for part in attribute.strip().split("."):
            cls = getattr(cls, part)
    except Exception as error:  # whatever a stranger's module may raise
        reason = f"{type(error).__name__}: {error}"
        raise StudyError(f"strategy {point.value!r} cannot be imported: {reason}") from error
    if not (isinstance(cls, type) and issubclass(cls, Searcher)):
        raise StudyError(f"{point.value!r} is not a subclass of bitfront.searchers.Searcher")
    return cls


def _address(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


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
