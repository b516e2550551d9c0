"""What `bitfront list` and `bitfront profile` answer, as rows of plain values."""

from collections.abc import Callable, Mapping
from typing import Any

from ..energy import EnergyModel, load_table, table_names
from ..models.config import data_names
from ..models.zoo import build_model, model_names
from ..searchers import describe, strategy_names
from ..spaces import BitAllocation
from .fast import FAST
from .find import library_studies, read_study

Row = dict[str, Any]


def strategies() -> list[Row]:
    """Return the strategies with their settings and defaults."""
    rows = []
    for name in strategy_names():
        about = describe(name)
        settings = [
            {
                "name": setting.name,
                "type": setting.type,
                "required": setting.required,
                "default": setting.default,
            }
            for setting in about.settings
        ]
        rows.append(
            {
                "name": name,
                "summary": about.summary,
                "settings": settings,
                "granularities": list(about.granularities),
                "paper": about.paper,
            }
        )
    return rows


def models() -> list[Row]:
    """Return the built-in networks, and how to name others."""
    others = [
        {"name": "timm:NAME", "origin": "any model of timm"},
        {"name": "package.module:function", "origin": "a function of yours"},
    ]
    return [{"name": name, "origin": "built in"} for name in model_names()] + others


def data() -> list[Row]:
    """Return the data sets."""
    return [{"name": name} for name in data_names()]


def tables() -> list[Row]:
    """Return the energy tables that are shipped."""
    rows = []
    for name in table_names():
        table = load_table(name)
        rows.append({"name": name, "title": table.title, "unit": table.unit})
    return rows


def studies() -> list[Row]:
    """Return the ready studies, with whether they have a fast profile."""
    rows = []
    for name in library_studies():
        said = read_study(name).value
        rows.append({"name": name, FAST: FAST in said, "description": said.get("description", "")})
    return rows


CATALOGUES: Mapping[str, Callable[[], list[Row]]] = {
    "strategies": strategies,
    "models": models,
    "data": data,
    "tables": tables,
    "studies": studies,
}
"""What can be listed."""


def profile_model(
    name: str,
    *,
    classes: int,
    input_shape: tuple[int, int, int],
    table: str,
    kwargs: Mapping[str, Any] | None = None,
) -> Row:
    """Return the layers of a network with what they cost.

    Args:
        name: As for `bitfront.models.build_model`.
        classes: Outputs of the network.
        input_shape: Channels, height and width of an image.
        table: Name or path of the energy table.
        kwargs: Further arguments of the network.

    Returns:
        ``layers``, one row each with the energy at uniform 8 bit, and the totals.

    Raises:
        ModelError: If the network cannot be built or profiled.
        EnergyTableError: If there is no such table, or it lacks 8 bit.
    """
    from ..models.profile import profile

    model = build_model(name, classes=classes, input_shape=input_shape, kwargs=kwargs)
    layers = profile(model, input_shape)
    energy = EnergyModel(load_table(table), layers)
    costs = energy.layer_costs[:, 8, 8]
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "macs": layer.macs,
            "weights": layer.weight_count,
            "inputs": layer.input_count,
            "outputs": layer.output_count,
            "energy_w8a8": float(cost),
        }
        for layer, cost in zip(layers, costs, strict=True)
    ]
    whole = energy.costs(BitAllocation.uniform(layers, 8))
    return {
        "model": name,
        "input_shape": list(input_shape),
        "table": energy.table.id,
        "energy_unit": energy.table.unit,
        "layers": rows,
        "macs": sum(layer.macs for layer in layers),
        "weights": sum(layer.weight_count for layer in layers),
        "energy_fp32": energy.fp32,
        "energy_w8a8": energy.w8a8,
        "size_bytes_w8a8": whole.size_bytes,
    }
