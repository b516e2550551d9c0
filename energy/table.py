"""Finding, reading and checking energy tables."""

import json
import re
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..spaces import EnergyTableError, nearest
from .options import EnergyOptions
from .schema import EnergyTable

DRAM_INTERFACES = "dram-interfaces"
"""The shipped table whose variants are the choices of DRAM."""

_FILE = re.compile(r"(?P<path>.+\.(?:ya?ml|json))(?::(?P<variant>[^:/\\]+))?")
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Model = TypeVar("_Model", bound=BaseModel)


class EnergyEvidenceWarning(UserWarning):
    """A result rests on numbers whose source could not be confirmed."""


def table_names() -> list[str]:
    """Return the names of the shipped tables, sorted; no file is read."""
    folder = resources.files(__package__) / "tables"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def variant_names(table: str) -> list[str]:
    """Return the names of a shipped table's variants; its plain name is one more choice."""
    return list(_shipped(table).get("variants", {}))


def load_table(name_or_path: str | Path) -> EnergyTable:
    """Return a table.

    Args:
        name_or_path: A shipped table's name or the path of a YAML or JSON file, either with
            ``:variant`` behind it for one of the file's variants.

    Raises:
        EnergyTableError: If there is no such table or variant, or the file does not follow the
            schema; the message says where and names what is nearest.

    Examples:
        >>> load_table("horowitz-45nm").unit
        'pJ'
        >>> load_table("gpu-peak:A100").id
        'gpu-peak:A100'
    """
    text = str(name_or_path)
    if match := _FILE.fullmatch(text):
        return _build(_read_file(Path(match["path"])), match["variant"], match["path"])
    return _load_shipped(text)


@lru_cache
def _load_shipped(text: str) -> EnergyTable:
    name, _, variant = text.partition(":")
    return _build(_shipped(name), variant or None, f"table {name}")


def _shipped(name: str) -> dict[str, Any]:
    if name not in table_names():
        raise EnergyTableError(
            f"no energy table {name!r}; {nearest(name, table_names())} "
            "(a table of your own is given as the path of a .yaml file)"
        )
    text = (resources.files(__package__) / "tables" / f"{name}.yaml").read_text("utf-8")
    return _parse(text, f"table {name}")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise EnergyTableError(f"energy table {path} cannot be read: {reason}") from None
    return _parse(text, str(path))


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _YamlLoader)  # a safe loader; JSON is YAML too
    except yaml.YAMLError as error:
        raise EnergyTableError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise EnergyTableError(f"{where}: a table is a mapping, got {type(data).__name__}")
    return data


def _build(data: dict[str, Any], variant: str | None, where: str) -> EnergyTable:
    base = {key: value for key, value in data.items() if key != "variants"}
    if variant is not None:
        variants = data.get("variants") or {}
        if variant not in variants:
            hint = nearest(variant, variants) if variants else "it has none"
            raise EnergyTableError(f"{where} has no variant {variant!r}; {hint}")
        base = _merge(base, {"id": f"{base.get('id')}:{variant}", **(variants[variant] or {})})
        where = f"{where}, variant {variant}"
    return validated(EnergyTable, base, where)


def _merge(base: Any, over: Any) -> Any:
    """Return ``base`` with the entries of ``over`` in their place; null removes one."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    merged = {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}
    return {key: value for key, value in merged.items() if over.get(key, value) is not None}


def with_dram(table: EnergyTable, name: str) -> EnergyTable:
    """Return a table with its DRAM replaced.

    Args:
        table: A table in pJ with a DRAM level.
        name: A variant of the shipped table ``dram-interfaces``.

    Raises:
        EnergyTableError: If there is no such entry, or nothing in the table to replace.
    """
    other = load_table(f"{DRAM_INTERFACES}:{name}")
    drams = [key for key, level in table.memory.items() if level.kind == "dram"]
    if not drams or table.unit != other.unit:
        raise EnergyTableError(
            f"table {table.id} has no DRAM in {other.unit} that {name!r} could replace; drop dram"
        )
    (level,) = other.memory.values()
    update = {"source": f"{DRAM_INTERFACES}:{level.source}", "evidence": other.evidence.level}
    replacement = level.model_copy(update=update)
    return table.model_copy(
        update={
            "memory": dict(table.memory) | dict.fromkeys(drams, replacement),
            "sources": dict(table.sources) | {replacement.source: other.sources[level.source]},
        }
    )


def options_from(values: Mapping[str, Any], where: str = "energy options") -> EnergyOptions:
    """Return checked options.

    Args:
        values: Fields of `EnergyOptions`.
        where: What the message of an error starts with.

    Raises:
        EnergyTableError: If a name is unknown or a value of the wrong type.
    """
    return validated(EnergyOptions, dict(values), where)


def validated(model: type[_Model], data: Mapping[str, Any], where: str) -> _Model:
    """Return ``data`` as ``model``; the first thing wrong becomes an `EnergyTableError`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise EnergyTableError(f"{where}: {_explain(model, error.errors())}") from None


def _explain(model: type[BaseModel], errors: Sequence[Any]) -> str:
    """Say of the most telling of pydantic's errors where it is, what was expected, what came."""
    # A misspelt key also makes its right spelling missing: the former explains the latter.
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    place, owner = _locate(model, first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return f"{f'{place}.{key}'.lstrip('.')}: unknown key; {nearest(key, owner.model_fields)}"
    if first["type"] == "missing":  # the last step is the field itself
        return f"{place} is missing"
    # The branches of a union fail one by one, at the same place.
    alike = [error["msg"] for error in errors if _locate(model, error["loc"])[0] == place]
    said = "; or ".join(map(_plainly, alike))
    if isinstance(first["input"], Mapping):
        return f"{place}: {said}" if place else said
    return f"{place}: {said}, got {json.dumps(first['input'], default=str)[:60]}"


def _plainly(message: str) -> str:
    """Return pydantic's message in the words of a YAML file."""
    text = message.removeprefix("Value error, ")
    text = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", text)
    return text[:1].lower() + text[1:].replace("a valid tuple", "a list")


def _locate(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """Return a place as text, like ``memory.dram.read``, and the innermost model around it."""
    place, owner, inside = "", model, None  # inside: the model that a collection here holds
    for step in location:
        field = owner.model_fields.get(str(step))
        if isinstance(step, int):
            place += f"[{step}]"
            owner = inside or owner
        elif inside:
            place += f".{step}"
            owner, inside = inside, None
        elif field is not None:
            place += f".{step}"
            held = _model_in(field.annotation)
            if typing.get_origin(field.annotation) in (tuple, Mapping):
                inside = held
            else:
                owner = held or owner
        # Else an unknown key, or the name of a union's branch: no place in the schema.
    return place.lstrip("."), owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model an annotation is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model), None)
