"""Strategies by name: our own, those of installed packages, and any class by its address."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ..spaces import StudyError, nearest
from .base import Searcher
from .settings import Setting, configure, settings_of

ENTRY_POINT_GROUP = "bitfront.searchers"
"""Packages that ship strategies declare them in this group: ``name = "package.module:Class"``."""

S = TypeVar("S", bound=type[Searcher])

_registered: dict[str, type[Searcher]] = {}


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
        >>> @register("random")  # doctest: +ELLIPSIS
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
    return Description(
        name=name,
        summary=cls.summary,
        paper=cls.paper,
        granularities=tuple(sorted(cls.granularities)),
        needs_model=cls.needs_model,
        deterministic=cls.deterministic,
        settings=settings_of(cls),
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
