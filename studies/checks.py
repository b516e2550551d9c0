"""The checks of a study that need the network: is its space there, can its budgets be met."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..energy import EnergyModel, load_table
from ..models.data import load_data
from ..models.locate import resolve_checkpoint
from ..models.qat.config import QatSettings
from ..models.zoo import build_model
from ..searchers import Pricing
from ..spaces import BitSpace, EnergyTableError, InfeasibleError, Layer, StudyError
from .spec import StudySpec

if TYPE_CHECKING:
    from ..models.splits import Splits


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a study comes to, before anything runs.

    Attributes:
        layers: The layers that are quantized.
        space: The bit-width space over them.
        pricing: What its allocations cost.
        images: Images per split: ``train``, ``calibration``, ``search`` and ``test``.
        notes: What a reader should know of the data.
    """

    layers: tuple[Layer, ...]
    space: BitSpace
    pricing: Pricing
    images: dict[str, int]
    notes: tuple[str, ...]


def price_space(spec: StudySpec, layers: Sequence[Layer]) -> tuple[BitSpace, Pricing]:
    """Return a study's space over the layers of its network, and what allocations cost.

    Args:
        spec: The study.
        layers: The network's layers.

    Raises:
        InvalidStudyError: With the place in the file, if a name is no layer's, the space is
            empty, the table or one that a limit names lacks a width, a limit is below the
            smallest achievable cost, or a strategy does not suit the space or its prices, or
            leaves too little of it for its budgets.
    """
    with spec.at("space"):
        space = spec.space.build(layers)
    with spec.at("energy"):
        energy = EnergyModel(load_table(spec.energy.table), layers, options=spec.energy.options)
        _require_priced(space, energy)
    pricing = Pricing(energy, _further_tables(spec, space, energy))
    for place, budget in spec.budget_places():
        for name, limit in budget.limits.items():
            with spec.at(*place, "limits", name):
                pricing.check_feasible(space, {name: limit})
    for index, strategy in enumerate(spec.strategies):
        with spec.at("strategies", index):
            built = strategy.build()
            part = strategy.searched(space)
            built.check(part)
            built.check_prices(part, pricing)
            narrowed = built.narrowed(part)
            for budget in spec.budgets_of(strategy):
                built.check_budget(part, budget)
                if narrowed is not part:
                    _require_feasible(strategy.name, pricing, narrowed, budget.limits)
    return space, pricing


def _require_feasible(
    strategy: str, pricing: Pricing, space: BitSpace, limits: Mapping[str, float]
) -> None:
    """Check that what a strategy leaves of a space can meet a budget's limits."""
    try:
        pricing.check_feasible(space, limits)
    except InfeasibleError as error:
        raise InfeasibleError(f"in what {strategy} leaves of the space, {error}") from error


def require_training_images(spec: StudySpec, splits: "Splits") -> bool:
    """Return whether a strategy trains the network, once it is sure that it can.

    Raises:
        InvalidStudyError: If one does, and the data has no images to train on that are in no other
            split, or fewer than it asks for, or only one class.
    """
    trains = False
    for index, strategy in enumerate(spec.strategies):
        built = strategy.build()
        if not built.trains:
            continue
        trains = True
        with spec.at("strategies", index):
            if splits.indices.one_part:
                raise StudyError(
                    f"{strategy.name} trains the network, and {spec.data.name} has no training "
                    f"part: all splits are drawn from one set of images; choose data with one, "
                    f"such as cifar10, or remove the strategy"
                )
            if splits.classes < 2:
                raise StudyError(
                    f"{strategy.name} trains the network to tell classes apart, and "
                    f"{spec.data.name} has {splits.classes}; choose data with two classes or more, "
                    f"or remove the strategy"
                )
        available = len(splits.indices.train)
        if isinstance(built, QatSettings) and (built.images or 0) > available:
            with spec.at("strategies", index, "images"):
                raise StudyError(
                    f"{built.images} images were asked for, but the train split has {available}; "
                    f"lower 'images', or leave it out to take all"
                )
    return trains


def _further_tables(
    spec: StudySpec, space: BitSpace, energy: EnergyModel
) -> dict[str, EnergyModel]:
    """Return the energy models of the study's further tables, by the name of the table.

    One that cannot price the whole space is left out: it may still rank the finalists.

    Raises:
        InvalidStudyError: If a limit needs that one.
    """
    limited = {name for _, budget in spec.budget_places() for name in budget.limits}
    models = {}
    for index, name in enumerate(spec.energy.also):
        table = load_table(name)
        needed = f"energy:{table.id}" in limited
        with (
            spec.at("energy", "also", index),
            nullcontext() if needed else suppress(EnergyTableError),
        ):
            model = EnergyModel(table, energy.layers, options=energy.options)
            _require_priced(space, model)
            models[table.id] = model
    return models


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
    from .adapting import require_adaptable

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
    with spec.at("adaptation"):
        require_adaptable(spec.adaptation, model, splits.indices)
    space, pricing = price_space(spec, layers)
    require_training_images(spec, splits)
    names = ("train", "calibration", "search", "test")
    images = {name: len(getattr(splits, name)) for name in names}
    return Inspection(layers, space, pricing, images, splits.notes)
