"""A study: what is asked, of which network, on which data, of which strategies, at which cost.

A `StudySpec` is what a study file says, checked: it is made by `StudySpec.load` and never changed
afterwards. Sections that belong to lower floors are those floors' own settings (`DataConfig`,
`TrainConfig`, `QuantizerConfig`, `AdaptationConfig`, `EnergyOptions`, `Budget`), so that a default
has one home.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..energy import load_table
from ..models.config import AdaptationConfig, DataConfig, QuantizerConfig
from ..models.locate import data_folder
from ..searchers import Budget
from ..spaces import OBJECTIVES, BitfrontError, Objective, StudyError, objective
from . import OUTPUT
from .fast import fast_version, split
from .faults import Fault, InvalidStudyError, fault_at, faults_of
from .find import read_study, shown_name
from .sections import (
    EnergySpec,
    ExecutionSpec,
    ModelSpec,
    Section,
    SpaceSpec,
    StrategySpec,
    TrackingSpec,
    distinct,
    looks_for_files,
    study_folder,
)
from .yaml_lines import Document, Place, show_place


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            f"a study's name is up to 64 letters, digits, '-', '_' and '.', beginning with a "
            f"letter or digit: it names a folder; got {name[:70]!r}"
        )
    return name


def _known_objective(name: str) -> str:
    return objective(name).name


def _labelled(strategies: tuple[Any, ...]) -> tuple[Any, ...]:
    labels = [strategy.label for strategy in strategies]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ValueError(f"two strategies are called {twice[0]!r}; give one of them a 'label'")
    return strategies


class StudySpec(Section):
    """A study, checked.

    Attributes:
        study: Its name; results are written to a folder of that name.
        description: One sentence on what it asks.
        model: The network.
        data: The images.
        space: The bit-width space.
        quantizer: How a width is realised.
        adaptation: What happens to the network for an allocation before that is measured.
        energy: What prices an allocation.
        objectives: What the front trades off.
        strategies: What is compared.
        budgets: What each strategy may spend, and limits on what it may propose; a strategy may
            have budgets of its own instead.
        seeds: Every strategy runs once with each, if the seed makes a difference to it.
        execution: Where the work is done.
        tracking: Where results are logged.
        output: Folder for study folders, relative to the working directory.
    """

    study: Annotated[str, AfterValidator(_study_name)]
    description: str = ""
    model: ModelSpec
    data: DataConfig
    space: SpaceSpec = SpaceSpec()
    quantizer: QuantizerConfig = QuantizerConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    energy: EnergySpec = EnergySpec()
    objectives: Annotated[
        tuple[Annotated[str, AfterValidator(_known_objective)], ...],
        Field(min_length=2),
        AfterValidator(distinct),
    ] = ("accuracy", "energy")
    strategies: Annotated[tuple[StrategySpec, ...], Field(min_length=1), AfterValidator(_labelled)]
    budgets: Annotated[tuple[Budget, ...], Field(min_length=1), AfterValidator(distinct)] = (
        Budget(evaluations=30),
    )
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(distinct)
    ] = (0,)
    execution: ExecutionSpec = ExecutionSpec()
    tracking: TrackingSpec = TrackingSpec()
    output: Annotated[str, Field(min_length=1)] = OUTPUT

    _document: Document = PrivateAttr(default=Document({}, {(): "the study"}, Path()))

    @field_validator("data")
    @classmethod
    def _find_data(cls, config: DataConfig, info: ValidationInfo) -> DataConfig:
        if not looks_for_files(info):
            return config
        folder = data_folder(config, study_folder(info))
        return config if config.root is None else replace(config, root=str(folder))

    @classmethod
    def load(
        cls,
        source: str | Path,
        overrides: Mapping[Place, Any] | None = None,
        *,
        fast: bool = False,
    ) -> "StudySpec":
        """Read and check a study; nothing heavy is loaded for built-in networks.

        Args:
            source: Path of a study file, or the name of a ready study.
            overrides: Values by place, in place of the file's and of its fast profile's.
            fast: Whether to return the study that its section ``fast`` makes of it. Without, the
                section is checked all the same, but for files that are not there.

        Raises:
            InvalidStudyError: With file and line of everything that is wrong.
            StudyError: If the file cannot be read, or there is no fast profile to use.
        """
        document = read_study(source)
        if fast:
            used, faults = fast_version(document, shown_name(source)), []
        else:
            used, profile = split(document)
            faults = [] if profile is None else cls._own_faults(profile, used)
        for place, value in (overrides or {}).items():
            used = used.replaced(place, value, f"option {show_place(place)}")
        try:
            spec = cls.parse(used)
        except InvalidStudyError as error:
            raise InvalidStudyError((*error.faults, *faults)) from None
        if faults:
            raise InvalidStudyError(faults)
        return spec

    @classmethod
    def _own_faults(cls, document: Document, other: Document) -> list[Fault]:
        """Return what is wrong with a document and not with another one, but for missing files."""

        def found(checked: Document) -> tuple[Fault, ...]:
            try:
                cls.parse(checked, files=False)
            except InvalidStudyError as error:
                return error.faults
            return ()

        known = found(other)
        return [fault for fault in found(document) if fault not in known]

    @classmethod
    def parse(cls, document: Document, *, files: bool = True) -> "StudySpec":
        """Check a study that was read already, without a fast profile.

        Args:
            document: What was read.
            files: Whether data and weights have to be there.

        Raises:
            InvalidStudyError: With the origin of everything that is wrong.
        """
        document = document.listed("budgets")
        try:
            # Strict JSON is what is meant: lists stand for tuples, and nothing else is converted.
            spec = cls.model_validate_json(
                json.dumps(document.value),
                strict=True,
                context={"folder": document.folder, "files": files},
            )
        except ValidationError as error:
            raise InvalidStudyError(faults_of(error, document, cls)) from None
        spec._document = document
        spec._check_limits()
        spec._check_repairs()
        return spec

    def _check_limits(self) -> None:
        """Check that every table a limit names is one of the study's.

        Raises:
            InvalidStudyError: With the place of the limit.
        """
        tables = [load_table(name).id for name in (self.energy.table, *self.energy.also)]
        for place, budget in self.budget_places():
            for name in budget.limits:
                _, colon, table = name.partition(":")
                if colon and table not in tables:
                    with self.at(*place, "limits", name):
                        raise StudyError(
                            f"the study has no table {table!r}, only "
                            f"{', '.join(map(repr, tables))}: name one of these, or add it to "
                            f"energy.also"
                        )

    def budgets_of(self, strategy: StrategySpec) -> tuple[Budget, ...]:
        """Return the budgets of a strategy: its own, or the study's."""
        return strategy.budgets or self.budgets

    def budget_places(self) -> Iterator[tuple[tuple[str | int, ...], Budget]]:
        """Yield all budgets of the study and of its strategies, each with its place."""
        for index, budget in enumerate(self.budgets):
            yield ("budgets", index), budget
        for number, strategy in enumerate(self.strategies):
            for index, budget in enumerate(strategy.budgets or ()):
                yield ("strategies", number, "budgets", index), budget

    def _check_repairs(self) -> None:
        """Check that finalists are not fitted in two ways.

        Raises:
            InvalidStudyError: If they are reconstructed and adapted.
        """
        if "none" not in (self.quantizer.reconstruction, self.adaptation.method):
            with self.at("adaptation", "method"):
                raise StudyError(
                    "a finalist is reconstructed or adapted, each to the network as it was; remove "
                    "quantizer.reconstruction, or set method: none"
                )

    @contextmanager
    def at(self, *place: str | int) -> Iterator[None]:
        """Give an error that is raised inside the file and line of a place of the study.

        Args:
            place: Keys and indices, as ``spec.at("strategies", 1)``.

        Raises:
            InvalidStudyError: In place of any other error of the user's.
        """
        try:
            yield
        except InvalidStudyError:
            raise
        except BitfrontError as error:
            raise InvalidStudyError([fault_at(self._document, place, str(error))]) from error

    @property
    def folder(self) -> Path:
        """The folder results are written to."""
        return Path(self.output) / self.study

    @property
    def compared(self) -> tuple[Objective, ...]:
        """The objectives."""
        return tuple(OBJECTIVES[name] for name in self.objectives)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, with everything that was left out filled in."""
        return self.model_dump(mode="json")
