"""Sensitivity scores of a study outside of its trials: computed, found, checked, solved with."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..models.config import ScoreConfig
from ..searchers import Budget, Problem
from ..searchers.additive import AdditiveModel, Solution
from ..searchers.additive_search import solve_within
from ..spaces import BitAllocation, BitSpace, Scores, StudyError, score_signature
from .desk import SharedScores
from .ledger import Ledger
from .progress import ProgressCallback
from .record import LEDGER_FILE
from .spec import StudySpec
from .workload import Prepared, prepare

_COSTS = ("energy", "size", "bops", "mean_weight_bits", "mean_activation_bits")


def compute_study_scores(
    spec: StudySpec, configs: Sequence[ScoreConfig], *, progress: ProgressCallback | None = None
) -> list[Scores]:
    """Return scores of a study's network, computed only where its ledger does not have them.

    Those that are computed are kept in the ledger, where the study's strategies find them.

    Args:
        spec: The study.
        configs: Which scores, and how.
        progress: Told of preparing the network.

    Raises:
        BitfrontError: If the study cannot be prepared, or a score is not finite.
    """
    from ..models.threads import fixed_threads

    prepared = prepare(spec, progress)
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"cannot write the study's folder {spec.folder}: {error.strerror}"
        ) from error
    with (
        closing(Ledger(spec.folder / LEDGER_FILE)) as ledger,
        fixed_threads(spec.execution.threads_per_worker),
    ):
        problem = Problem(
            prepared.space,
            prepared.pricing.energy,
            _no_evaluations,
            Budget(1),
            model=prepared.workload,
            score_store=SharedScores(ledger),
        )
        return [problem.scores(config) for config in configs]


def _no_evaluations(allocations: Sequence[BitAllocation], **options: Any) -> NoReturn:
    raise AssertionError("scores need no evaluation")


@dataclass(frozen=True)
class Solved:
    """What solving the additive model of a study came to.

    Attributes:
        kind: Which scores.
        solution: The allocation, how good it is, and how sure that is.
        costs: What the allocation costs, by name, limited or not.
    """

    kind: str
    solution: Solution
    costs: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"kind": self.kind, **self.solution.to_dict(), "costs": dict(self.costs)}


def solve_study(
    spec: StudySpec,
    limits: Mapping[str, float],
    source: ScoreConfig | Path,
    *,
    monotone: bool = True,
    time_limit_s: float = 60.0,
    progress: ProgressCallback | None = None,
) -> Solved:
    """Solve the additive model of a study with saved scores, without running the network.

    Args:
        spec: The study.
        limits: Cost -> its largest acceptable value, as in a budget.
        source: Settings of scores that are in the study's ledger, or a file of scores.
        monotone: Whether fewer bits may never score better than more.
        time_limit_s: Seconds after which the best allocation so far is returned.
        progress: Told of preparing the network.

    Raises:
        StudyError: If there are no such scores, or they are not of this study.
        InfeasibleError: If no allocation is within the limits.
        OutOfTimeError: If none was found in time.
        SolverError: If the solver failed.
    """
    limits = Budget(1, limits).limits  # which checks names and values
    found = Scores.load(source) if isinstance(source, Path) else None
    if isinstance(source, ScoreConfig) and not (spec.folder / LEDGER_FILE).exists():
        raise _missing(spec, source)  # before the network is prepared, or even trained
    prepared = prepare(spec, progress)
    if isinstance(source, ScoreConfig):
        with closing(Ledger(spec.folder / LEDGER_FILE)) as ledger:
            found = ledger.scores(_signature(prepared, asdict(source)))
        if found is None:
            raise _missing(spec, source)
    else:
        assert found is not None
        _require_of_study(found, prepared, source)
    pricing = prepared.pricing
    model = AdditiveModel(prepared.space, (found.monotone() if monotone else found).pairs())
    solution = solve_within(pricing, model, limits, time_limit_s)
    costs = {
        name: pricing.price(solution.allocation, name) for name in dict.fromkeys((*_COSTS, *limits))
    }
    return Solved(found.kind, solution, costs)


def _signature(prepared: Prepared, config: Mapping[str, Any]) -> str:
    """Return the name of the scores that some settings give in a study."""
    return score_signature(prepared.workload.digest, config, _choices(prepared.space))


def _choices(space: BitSpace) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [
        (tuple(space.weight_choices(i)), tuple(space.activation_choices(i)))
        for i in range(len(space.layers))
    ]


def _missing(spec: StudySpec, config: ScoreConfig) -> StudyError:
    images = "" if config.images is None else f" --images {config.images}"
    return StudyError(
        f"no {config.kind} scores of this network, data, quantizer and space are in "
        f"{spec.folder / LEDGER_FILE}; compute them with: bitfront scores STUDY "
        f"--kind {config.kind}{images}"
    )


def _require_of_study(scores: Scores, prepared: Prepared, path: Path) -> None:
    """Check that scores from a file are of this study.

    Raises:
        StudyError: Saying in what they differ.
    """
    names = tuple(layer.name for layer in prepared.space.layers)
    choices = _choices(prepared.space)
    if scores.layers != names:
        reason = f"of another network: {_first_difference(scores.layers, names)}"
    elif (other := _other_widths(scores, choices)) is not None:
        reason = f"of another space: {other}"
    elif scores.signature != _signature(prepared, scores.config):
        reason = (
            "of other weights, other images, another quantizer or another version of the settings"
        )
    else:
        return
    raise StudyError(
        f"the scores {path} are {reason}; compute this study's with: bitfront scores STUDY "
        f"--kind {scores.kind} --output FILE"
    )


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    for one, other in zip(found, expected, strict=False):
        if one != other:
            return f"there is layer {one!r} where this one has {other!r}"
    return f"it has {len(found)} layers and this one {len(expected)}"


def _other_widths(
    scores: Scores, choices: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> str | None:
    """Return which operand has scores at other widths than the space offers, and which."""
    for name, rows, offered in zip(scores.layers, scores.values, choices, strict=True):
        for operand, row, widths in zip(("weight", "activation"), rows, offered, strict=True):
            scored = tuple(bits for bits, score in enumerate(row.tolist()) if score == score)
            if scored != tuple(sorted(widths)):
                return (
                    f"{name}.{operand} is scored at {', '.join(map(str, scored))} bits and this "
                    f"one offers {', '.join(map(str, sorted(widths)))}"
                )
    return None
