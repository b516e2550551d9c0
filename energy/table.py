"""Finding, reading and checking energy tables."""

import json
import re
import typing
from collections.abc import Iterable, Mapping
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
        raise EnergyTableError(f"{where}: {_explain(model, error.errors()[0])}") from None


def _explain(model: type[BaseModel], error: Any) -> str:
    """Say where one of pydantic's errors is, what was expected and what came."""
    place, owner = _locate(model, error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key; {nearest(str(error['loc'][-1]), owner.model_fields)}"
    if error["type"] == "missing":
        return f"{place} is missing"
    said = error["msg"].removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    if isinstance(error["input"], Mapping):
        return f"{place}: {said}" if place else said
    return f"{place}: {said}, got {json.dumps(error['input'], default=str)[:60]}"


def _locate(model: type[BaseModel], location: Iterable[int | str]) -> tuple[str, type[BaseModel]]:
    """Return a place as text, like ``memory.dram.read``, and the innermost model around it."""
    place, owner, inside = "", model, None  # inside: the model a mapping or list holds
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
            owner = inside or owner
        elif field := owner.model_fields.get(step):
            place += f".{step}"
            inside = _model_in(field.annotation)
            if inside and typing.get_origin(field.annotation) not in (tuple, Mapping):
                owner, inside = inside, None
        elif inside:
            place += f".{step}"
            owner, inside = inside, None
        elif step in ("int", "str", "float") or step.startswith("literal["):
            continue  # the branch of a union, not a place in the file
        else:
            place += f".{step}"
    return place.lstrip("."), owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model an annotation is, or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model), None)
