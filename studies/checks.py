"""The checks of a study that need the network: is its space there, can its budgets be met."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..energy import EnergyModel, load_table
from ..models.data import load_data
from ..models.locate import resolve_checkpoint
from ..models.zoo import build_model
from ..searchers import Pricing
from ..spaces import BitSpace, EnergyTableError, Layer
from .spec import StudySpec


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a study comes to, before anything runs.

    Attributes:
        layers: The layers that are quantized.
        space: The bit-width space over them.
        energy: Prices its allocations.
        images: Images per split: ``train``, ``calibration``, ``search`` and ``test``.
        notes: What a reader should know of the data.
    """

    layers: tuple[Layer, ...]
    space: BitSpace
    energy: EnergyModel
    images: dict[str, int]
    notes: tuple[str, ...]


def price_space(spec: StudySpec, layers: Sequence[Layer]) -> tuple[BitSpace, EnergyModel]:
    """Return a study's space and energy model over the layers of its network.

    Args:
        spec: The study.
        layers: The network's layers.

    Raises:
        InvalidStudyError: With the place in the file, if a name is no layer's, the space is
            empty, the table lacks a width, a limit is below the smallest achievable cost, or a
            strategy does not suit the space.
    """
    with spec.at("space"):
        space = spec.space.build(layers)
    with spec.at("energy"):
        energy = EnergyModel(load_table(spec.energy.table), layers, options=spec.energy.options)
        _require_priced(space, energy)
    for index, budget in enumerate(spec.budgets):
        with spec.at("budgets", index, "limits"):
            Pricing(energy).check_feasible(space, budget.limits)
    for index, strategy in enumerate(spec.strategies):
        with spec.at("strategies", index):
            strategy.build().check(space)
    return space, energy


def _require_priced(space: BitSpace, energy: EnergyModel) -> None:
    """Check that the table prices every allocation of a space, and what energies are relative to.

    Raises:
        EnergyTableError: Naming a layer and widths it cannot price, and those it can.
    """
    unpriced, allocation = space.minimum(-np.isnan(energy.layer_costs).astype(np.float64))
    if unpriced < 0:
        energy.energy(allocation)
    if not energy.w8a8 > 0:
        raise EnergyTableError(
            f"table {energy.table.id} has no price above 0 for uniform 8 bit, which every energy "
            f"is relative to"
        )


def inspect(spec: StudySpec) -> Inspection:
    """Read the data, build the network with its checkpoint, and check what depends on them.

    Nothing is trained, and nothing is written.

    Raises:
        InvalidStudyError: With the place in the file of what is wrong.
    """
    from ..models.checkpoint import load_checkpoint
    from ..models.profile import profile

    with spec.at("data"):
        splits = load_data(spec.data)
    with spec.at("model"):
        model = build_model(
            spec.model.name,
            classes=splits.classes,
            input_shape=splits.input_shape,
            kwargs=spec.model.kwargs,
            seed=spec.model.seed,
        )
        if spec.model.checkpoint is not None:
            load_checkpoint(model, resolve_checkpoint(spec.model.checkpoint))
        layers = profile(model, splits.input_shape)
    space, energy = price_space(spec, layers)
    names = ("train", "calibration", "search", "test")
    images = {name: len(getattr(splits, name)) for name in names}
    return Inspection(layers, space, energy, images, splits.notes)
