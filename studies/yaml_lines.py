"""YAML that remembers where everything stands.

Plain data only: text, numbers, true/false, null, lists and mappings, read by the rules of YAML 1.2
(``1e-3`` is a number, ``no`` is text, ``010`` is ten), where a user's eye and PyYAML's 1.1 differ.
What a study never needs and an attacker might use is refused: tags, aliases, repeated keys,
infinite or absurd numbers, control characters, very deep or very large files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..spaces import StudyError

Place = tuple[str | int, ...]
"""The way to a value: keys of mappings and indices of lists, ``("strategies", 1, "name")``."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NUMBER = 1e18
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Document:
    """A mapping read from a file, and where each of its values came from.

    Attributes:
        value: The plain data.
        origins: Place -> ``"file.yaml:12"``, or the option that set it; ``()`` is the whole.
        folder: The folder that relative paths in it start from.
    """

    value: dict[str, Any]
    origins: Mapping[Place, str]
    folder: Path

    def where(self, place: Place) -> str:
        """Return the origin of a place, or of the nearest thing around it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.origins:
                return self.origins[place[:end]]
        return self.origins[()]

    def replaced(self, place: Place, value: Any, origin: str) -> "Document":
        """Return a copy with one value set, mappings on the way made where they are missing.

        Raises:
            StudyError: If the way leads through something that is no mapping and no list.
        """
        changed = _replaced(self.value, place, value, origin)
        kept = {known: o for known, o in self.origins.items() if known[: len(place)] != place}
        return Document(changed, {**kept, place: origin}, self.folder)

    def listed(self, key: str) -> "Document":
        """Return a copy in which a mapping under a key of the top is a list of that mapping."""
        value = self.value.get(key)
        if not isinstance(value, dict):
            return self
        origins = {
            (key, 0, *place[1:]) if place[:1] == (key,) and len(place) > 1 else place: origin
            for place, origin in self.origins.items()
        }
        return Document({**self.value, key: [value]}, origins, self.folder)


def show_place(place: Place) -> str:
    """Return a place as one writes it.

    Examples:
        >>> show_place(("strategies", 1, "name"))
        'strategies[1].name'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def read_yaml(path: Path, name: str | None = None) -> Document:
    """Read a YAML file whose top is a mapping.

    Args:
        path: The file.
        name: What to call it in messages; the path if None.

    Raises:
        StudyError: With file and line, if it cannot be read or holds what is refused.
    """
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StudyError(f"{shown}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise StudyError(f"{shown}: is larger than {MAX_BYTES // 1000} kB; is it a study file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise StudyError(f"{shown}:{line}: is not UTF-8 text; save the file as UTF-8") from None
    value, origins = _parse(text, shown)
    if not isinstance(value, dict):
        raise StudyError(f"{shown}:1: expected a mapping (key: value), got {describe(value)}")
    return Document(value, origins, path.resolve().parent)


def parse_value(text: str, origin: str) -> Any:
    """Parse one YAML value, as given on the command line.

    Raises:
        StudyError: If it is no plain YAML.
    """
    return _parse(text, origin)[0]


def describe(value: Any) -> str:
    """Return a value and its kind, short enough for a message.

    Examples:
        >>> describe("ten"), describe([1]), describe(None)
        ("text 'ten'", 'a list', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"text {value if len(value) <= 40 else value[:37] + '...'!r}"
    if isinstance(value, int | float):
        return f"{value}"
    return "a mapping" if isinstance(value, Mapping) else "a list"


class _Loader(yaml.SafeLoader):
    """The composer of PyYAML with the scalars of YAML 1.2 and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - declared so by PyYAML

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth = getattr(self, "depth", 0) + 1
        mark: Any = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are refused", mark)
        if self.depth > MAX_DEPTH:
            said = f"more than {MAX_DEPTH} levels are refused"
            raise yaml.MarkedYAMLError(None, None, said, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def _parse(text: str, name: str) -> tuple[Any, dict[Place, str]]:
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise StudyError(f"{name}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise StudyError(f"{name}: not valid YAML: a character that text may not hold") from None
    if node is None:
        return None, {(): f"{name}:1"}
    origins: dict[Place, str] = {}
    return _plain(node, (), name, origins), {**origins, (): f"{name}:1"}


def _plain(node: yaml.Node, place: Place, name: str, origins: dict[Place, str]) -> Any:
    """Turn a node into plain data and note the line of all that is in it."""
    origins.setdefault(place, f"{name}:{node.start_mark.line + 1}")
    if node.tag == _TAG + "map" and isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, value, line in _entries(node, place, name):
            origins[(*place, key)] = f"{name}:{line}"
            mapping[key] = _plain(value, (*place, key), name, origins)
        return mapping
    if node.tag == _TAG + "seq" and isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, i), name, origins) for i, item in enumerate(node.value)]
    try:
        return _scalar(node)
    except ValueError as error:
        at = f"{origins[place]}: {show_place(place)}".removesuffix(": ")
        raise StudyError(f"{at}: {error}") from None


def _entries(
    node: yaml.MappingNode, place: Place, name: str
) -> Iterator[tuple[str, yaml.Node, int]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        inside = show_place(place) or "the study"
        if key.tag != _TAG + "str" or not isinstance(key, yaml.ScalarNode):
            raise StudyError(
                f"{name}:{line}: a key of {inside} must be text, got {key.value!r}; "
                f"put it in quotes"
            )
        if key.value in seen:
            raise StudyError(
                f"{name}:{line}: {show_place((*place, key.value))}: given twice, first on line "
                f"{seen[key.value]}; remove one"
            )
        seen[key.value] = line
        yield key.value, value, line


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    """Return the value of a scalar; ValueError says what is wrong with it."""
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "str" if isinstance(text, str):
            if any(ord(c) < 32 and c not in "\n\t" for c in text):
                raise ValueError("control characters are refused")
            return text
        case "null":
            return None
        case "bool":
            return str(text).lower() == "true"
        case "int" | "float" as kind:
            number = float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
            if not abs(number) <= MAX_NUMBER:  # true for NaN
                raise ValueError(
                    f"expected a number of at most {MAX_NUMBER:g} in size, got {text[:40]}"
                )
            return int(text) if kind == "int" else number
        case _:
            raise ValueError(f"the tag {node.tag!r} is refused; a study is plain data")


def _replaced(value: Any, place: Place, new: Any, origin: str) -> Any:
    if not place:
        return new
    first, rest = place[0], place[1:]
    if isinstance(value, list) and str(first).isdecimal() and int(first) < len(value):
        index = int(first)
        return [_replaced(v, rest, new, origin) if i == index else v for i, v in enumerate(value)]
    if isinstance(value, Mapping) or value is None:
        inside = value or {}
        return {**inside, str(first): _replaced(inside.get(str(first)), rest, new, origin)}
    raise StudyError(f"{origin}: {first!r} is not in {describe(value)}")
