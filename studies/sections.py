"""The sections of a study, each checked as far as it can be without loading anything heavy."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..energy import EnergyOptions, load_table
from ..models.config import TrainConfig
from ..models.locate import resolve_checkpoint
from ..models.zoo import check_model_name
from ..searchers import Budget, Searcher, build
from ..spaces import KNOWN_WIDTHS, BitSpace, Granularity, Layer, SpaceError

Operand = Literal["weight", "activation"]

EngineKind = Literal["integer", "reference"]
"""What computes: integer kernels wherever they can, or the float simulation that defines what is
correct."""


def _width(value: int) -> int:
    if value not in KNOWN_WIDTHS:
        raise ValueError(f"a width is one of {', '.join(map(str, KNOWN_WIDTHS))}, got {value}")
    return value


def _known_model(name: str) -> str:
    check_model_name(name)
    return name


def study_folder(info: ValidationInfo) -> Path:
    """Return the folder of the study file, which relative paths start from."""
    return info.context["folder"] if info.context else Path.cwd()


def looks_for_files(info: ValidationInfo) -> bool:
    """Return whether data and weights have to be there, as they have to be to run the study."""
    return bool(info.context.get("files", True)) if info.context else True


def _table(text: str, info: ValidationInfo) -> str:
    """Check an energy table; return its name, or its absolute path (with ``:variant``)."""
    is_file = re.search(r"\.(ya?ml|json)(:[^/]*)?$", text) is not None
    found = str(study_folder(info) / text) if is_file else text
    load_table(found)
    return found


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a list in which something is there twice."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; remove one")
    return values


Width = Annotated[int, AfterValidator(_width)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1), AfterValidator(distinct)]


Table = Annotated[str, AfterValidator(_table)]
Label = Annotated[str, Field(min_length=1, max_length=60)]


class Section(BaseModel):
    """A mapping of a study; it refuses keys it does not know and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Section):
    """The network.

    Attributes:
        name: A built-in model, any timm model, or ``package.module:function``.
        kwargs: Further arguments of the model.
        checkpoint: File with its weights; None to train it.
        train: How it is trained where there is no checkpoint.
        seed: Seed of its initial weights.
    """

    name: Annotated[str, AfterValidator(_known_model)]
    kwargs: dict[str, Any] = {}
    checkpoint: str | None = None
    train: TrainConfig = TrainConfig()
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("checkpoint")
    @classmethod
    def _find(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None or not looks_for_files(info):
            return text
        return str(resolve_checkpoint(text, study_folder(info)))

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        # What a study's folder keeps has everything filled in, and can be run again.
        if self.checkpoint is not None and self.train != TrainConfig():
            raise ValueError("a network has a checkpoint or is trained; remove 'train'")
        return self


class SpaceSpec(Section):
    """The bit-width space; the words are those of `bitfront.spaces.BitSpace.build`.

    Attributes:
        weights: Widths the weights may take.
        activations: Widths the input activations may take.
        granularity: ``layer`` or ``channel``.
        first_last: Width of the first and the last layer; None leaves them free.
        pins: Layer name or pattern -> operand -> its width.
        choices: Layer name or pattern -> operand -> its choices.
        ties: Slots that share a width.
        forbid: Pairs (weight width, activation width) no layer may have.
    """

    weights: Widths = (2, 3, 4, 5, 6, 7, 8)
    activations: Widths = (2, 3, 4, 5, 6, 7, 8)
    granularity: Granularity = "layer"
    first_last: Width | None = 8
    pins: dict[str, dict[Operand, Width]] = {}
    choices: dict[str, dict[Operand, Widths]] = {}
    ties: tuple[str | tuple[str, ...], ...] = ()
    forbid: tuple[tuple[Width, Width], ...] = ()

    def build(self, layers: Sequence[Layer]) -> BitSpace:
        """Return the space over the layers of a network.

        Raises:
            SpaceError: If a name is no layer's, or nothing is left to choose from.
        """
        return BitSpace.build(
            layers, **{name: getattr(self, name) for name in type(self).model_fields}
        )


class EnergySpec(Section):
    """What prices an allocation.

    Attributes:
        table: A table's name, or the path of a file.
        also: Further tables under which the finalists are ranked.
        options: How the table is applied.
    """

    table: Table = "horowitz-45nm"
    also: Annotated[tuple[Table, ...], AfterValidator(distinct)] = ()
    options: EnergyOptions = EnergyOptions()


class StrategySpec(BaseModel):
    """One strategy; every key beside these four is a setting of it.

    Attributes:
        name: A registered name, or ``package.module:Class``.
        label: What it is called in results; the name if left out.
        granularity: The part of the study's space it searches: ``channel`` for all of a per-channel
            space, ``layer`` for its layer-wise corner; as much as the strategy can if None.
        budgets: What it may spend, in place of the study's budgets; those if None.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    label: Label = Field(default_factory=lambda given: given.get("name", "?"))
    granularity: Granularity | None = None
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1), AfterValidator(distinct)] | None = (
        None
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _buildable(self) -> "StrategySpec":
        self.build()
        return self

    def build(self) -> Searcher:
        """Return the strategy.

        Raises:
            StudyError: If there is no such strategy or a setting is wrong.
        """
        return build(self.name, self.settings)

    def searched(self, space: BitSpace) -> BitSpace:
        """Return the part of a study's space that the strategy searches.

        Raises:
            SpaceError: If the space has no such part, or the strategy does not search it.
        """
        strategy = self.build()
        if self.granularity is None:
            return strategy.searched(space)
        part = space.layerwise() if self.granularity == "layer" else space
        if part.granularity != self.granularity:
            raise SpaceError(
                "granularity 'channel' is for a per-channel space, and that of this study is per "
                "layer; remove 'granularity', or set space.granularity to 'channel'"
            )
        strategy.check(part)
        return part


class ExecutionSpec(Section):
    """Where the work is done.

    Attributes:
        workers: Processes that measure; 0 measures in the process that searches.
        threads_per_worker: Threads of torch in each.
        batch_size: Images per forward pass; sums round differently with another, so that it is
            a key that belongs to a result.
        engine: What computes; it belongs to a result, too.
        gpus_per_worker: Share of a GPU that each worker has; 0 measures on CPUs.
        gpus_per_trial: Share of a GPU that each trial of a strategy that trains has; 0 trains on
            CPUs.
        address: Address of a running Ray cluster; None starts a local one.
    """

    workers: Annotated[int, Field(ge=0, le=4096)] = 2
    threads_per_worker: Annotated[int, Field(ge=1, le=1024)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    engine: EngineKind = "integer"
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] = 0.0
    gpus_per_trial: Annotated[float, Field(ge=0, le=1)] = 0.0
    address: str | None = None

    @model_validator(mode="after")
    def _has_workers(self) -> "ExecutionSpec":
        if self.address is not None and self.workers == 0:
            raise ValueError("workers 0 measures in this process alone; remove 'address'")
        if self.gpus_per_worker > 0 and self.workers == 0:
            raise ValueError("workers 0 measures on the CPU; remove 'gpus_per_worker'")
        if self.gpus_per_trial > 0 and self.workers == 0:
            raise ValueError("workers 0 shares out no GPUs; remove 'gpus_per_trial'")
        return self

    @model_validator(mode="after")
    def _runs_on_gpus(self) -> "ExecutionSpec":
        if self.gpus_per_worker > 0 and self.engine == "integer":
            raise ValueError(
                "integer kernels are for CPUs; with gpus_per_worker, engine: reference"
            )
        return self


class TrackingSpec(Section):
    """Where results are logged.

    Attributes:
        uri: MLflow's tracking URI; None for ``MLFLOW_TRACKING_URI``, else a file beside the study.
        experiment: Name of the experiment; the study's name if None.
    """

    uri: str | None = None
    experiment: str | None = None
