"""What is wrong with a study, in sentences that say where and what to do."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..spaces import StudyError, nearest
from .yaml_lines import Document, Place, describe, show_place

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_type": "a whole number",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "some text",
    "string_type": "text",
    "too_long": "{max_length} entries or fewer",
    "too_short": "{min_length} or more entries",
    "tuple_type": "a list",
}
"""What pydantic expected, by the type of its error."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a study.

    Attributes:
        where: File and line, or the option that set the value.
        place: The key, as ``strategies[1].name``.
        message: One sentence: what was expected, what came, what to do.
    """

    where: str
    place: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        place = "" if self.where == f"option {self.place}" else self.place
        return ": ".join(part for part in (self.where, place, self.message) if part)


class InvalidStudyError(StudyError):
    """A study with faults; its text has one line for each.

    Attributes:
        faults: What is wrong, in the order of the file.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def fault_at(document: Document, place: Place, message: str) -> Fault:
    """Return a fault at a place, or at the entry of it that the message names."""
    exact = _narrowed(document.value, place, message)
    return Fault(document.where(exact), show_place(exact), message)


def faults_of(error: ValidationError, document: Document, root: type[BaseModel]) -> list[Fault]:
    """Turn what pydantic found into faults, in the order of the file.

    Args:
        error: What pydantic found.
        document: What it was asked to validate.
        root: The model it validated against.
    """
    found: dict[Place, list[str]] = {}
    items = error.errors(include_url=False)
    for item in items:
        place = _existing(document.value, item["loc"])
        if item["type"] == "too_short" and any(_lies_in(other["loc"], place) for other in items):
            continue  # pydantic counts the items that passed
        sentence = _sentence(item["type"], item["input"], item.get("ctx", {}))
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = _known_keys(root, place[:-1])
            sentence = f"unknown key; {nearest(str(place[-1]), known)}"
        elif item["type"] == "missing":
            key = item["loc"][-1]
            sentence = f"{key!r} is missing; write {show_place((*place, key))}: ..."
            if isinstance(key, int):
                sentence = f"expected {key + 1} or more entries, got {len(item['input'])}"
        found.setdefault(place, []).append(sentence)
    faults = [fault_at(document, place, _joined(said)) for place, said in found.items()]
    order = {origin: rank for rank, origin in enumerate(document.origins.values())}
    return sorted(faults, key=lambda fault: order[fault.where])


def _lies_in(location: Place, place: Place) -> bool:
    return len(location) > len(place) and location[: len(place)] == place


def _sentence(kind: str, given: Any, context: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    expected = _EXPECTED.get(kind, "another kind of value").format_map(context)
    return f"expected {expected}, got {context.get('actual_length', describe(given))}"


def _joined(sentences: list[str]) -> str:
    """Make one sentence of what the branches of a union said of one value."""
    distinct = list(dict.fromkeys(sentences))
    expected = [re.match(r"expected (.*), got .*", sentence) for sentence in distinct]
    if len(distinct) > 1 and all(expected):
        options = " or ".join(match.group(1) for match in expected if match)
        return f"expected {options}, got {distinct[0].rpartition(', got ')[2]}"
    return distinct[0]


def _existing(value: Any, location: Iterable[str | int]) -> Place:
    """Return the part of a location that is in the value, without names of union branches."""
    place: list[str | int] = []
    for part in location:
        if part not in dict(_entries(value)):
            break
        place.append(part)
        value = value[part]
    return tuple(place)


def _narrowed(value: Any, place: Place, message: str) -> Place:
    """Return the entry below a place that the message speaks of, else the place.

    The nearest level that has one is taken; in it, an entry written as ``section.key`` comes before
    one whose key or text is quoted (the first in the message, which names the next best last), and
    that before one whose key is a word of the message.
    """
    for part in place:
        value = value[part] if not isinstance(value, Mapping) else value.get(part)
    level = [(place, value)]
    while level:
        level = [((*at, key), inner) for at, outer in level for key, inner in _entries(outer)]
        for speaks in (_spells, _quotes, _names):
            if told := [entry for entry in level if speaks(message, *entry)]:
                return min(told, key=lambda entry: _first_quoted(message, *entry))[0]
    return place


def _spells(message: str, place: Place, value: Any) -> bool:
    return _has_word(message, ".".join(map(str, place[-2:]))) if len(place) > 1 else False


def _quotes(message: str, place: Place, value: Any) -> bool:
    return any(isinstance(text, str) and repr(text) in message for text in (place[-1], value))


def _names(message: str, place: Place, value: Any) -> bool:
    return isinstance(place[-1], str) and _has_word(message, place[-1])


def _first_quoted(message: str, place: Place, value: Any) -> int:
    """Return where a message first quotes an entry's key or text; its end if it does not."""
    quoted = (repr(text) for text in (place[-1], value) if isinstance(text, str))
    return min((message.index(text) for text in quoted if text in message), default=len(message))


def _has_word(message: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?!\.?[\w-])", message) is not None


def _entries(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _known_keys(root: type, place: Place) -> list[str]:
    """Return the keys a section takes, following the annotations from the root to it."""
    kind = root
    for part in place:
        if isinstance(part, str):
            kind = next(_sections(_annotation(kind, part)))
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    return list(kind.model_fields) if issubclass(kind, BaseModel) else []


def _annotation(kind: type, name: str) -> Any:
    if is_dataclass(kind):
        return next(field.type for field in fields(kind) if field.name == name)
    assert issubclass(kind, BaseModel)
    return kind.model_fields[name].annotation


def _sections(annotation: Any) -> Iterator[type]:
    """Yield the models and dataclasses an annotation speaks of."""
    if isinstance(annotation, type) and (
        is_dataclass(annotation) or issubclass(annotation, BaseModel)
    ):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
