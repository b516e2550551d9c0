"""What dynamic networks chose, in the terminal: energies, shares of widths, groups of inputs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..spaces import Measurement, Usage
from .chosen import (
    attention_shares,
    early_and_late,
    named_terciles,
    wide_share,
    width_shares,
)
from .differences import Difference, over_seeds, paired
from .palette import styles
from .result import Point, StudyResult

HEADING = "Chosen by input"

_LEGEND = (
    "± is the spread over inputs. Wide is the share of the largest width there was, of channels; "
    "of a cascade, of the inputs that its last member answered. Early and late: the first and the "
    "last third of the layers that choose. Deciding is part of the energy."
)
_DIGEST = 6


@dataclass(frozen=True, slots=True)
class _Finalist:
    """A dynamic network, and the seeds that found it."""

    test: Measurement
    usage: Usage
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        seeds = ",".join(map(str, self.seeds))
        return f"s{seeds} {(self.test.network or self.usage.allocation.key)[:_DIGEST]}"


def choices_parts(result: StudyResult, points: Sequence[Point]) -> list[RenderableType]:
    """Return what is shown of dynamic finalists; nothing if none of these is one.

    Args:
        result: The study.
        points: The finalists that are shown.
    """
    groups = _by_strategy_and_kind(result, points)
    if not groups:
        return []
    table = result.float_test.energy_table
    about = f"{HEADING}: energies relative to uniform 8 bit, table {table}"
    parts: list[RenderableType] = [Text(f"\n{about}", style="bold"), Text(_LEGEND, style="dim")]
    colours = styles(point.strategy for point in result.points)
    for (strategy, kind), finalists in groups.items():
        title = Text(f"\n{strategy}", style=colours[strategy].colour).append(f": {kind}")
        parts += [title, _summary(finalists)]
        if kind == "cascade":
            parts += [Text(), _members(finalists)]
        elif by_width := _widths(finalists):
            parts += [Text(), by_width]
        parts += [Text(), _groups(finalists)]
        if any(finalist.usage.ablations for finalist in finalists):
            parts += [Text(), _ablations(finalists, _pooled(result, strategy))]
    return parts


def worth(measurement: Measurement) -> dict[str, Difference]:
    """Return what following the input is worth, in points, by what it is compared with."""
    if (usage := measurement.dynamic) is None:
        return {}
    return {
        ablation.name: paired(
            measurement.accuracy, ablation.accuracy, ablation.differs, usage.inputs
        )
        for ablation in usage.ablations
    }


def _by_strategy_and_kind(
    result: StudyResult, points: Sequence[Point]
) -> dict[tuple[str, str], list[_Finalist]]:
    """Return dynamic finalists, cheapest first; several seeds may have found the same one."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: result.cost.of(point.test)):
        if (usage := point.test.dynamic) is not None and not point.test.failed:
            same = f"{usage.allocation.key} {point.test.network}"
            found.setdefault((point.strategy, usage.allocation.kind, same), []).append(point)
    groups: dict[tuple[str, str], list[_Finalist]] = {}
    order = list(styles(point.strategy for point in result.points))
    for (strategy, kind, _), members in sorted(found.items(), key=lambda f: order.index(f[0][0])):
        test = members[0].test
        assert test.dynamic is not None
        seeds = tuple(sorted({point.seed for point in members}))
        groups.setdefault((strategy, kind), []).append(_Finalist(test, test.dynamic, seeds))
    return groups


def _summary(finalists: Sequence[_Finalist]) -> Table:
    channels = finalists[0].usage.allocation.kind == "channels"
    depth = ("early/late",) if channels else ()
    table = _table(
        "finalist", "accuracy", "energy", "5-95 %", "deciding", "wide", *depth, "bits w/a"
    )
    for finalist in finalists:
        test, usage = finalist.test, finalist.usage
        ends = [] if not channels else [_slashed(early_and_late(usage))]
        table.add_row(
            finalist.name,
            _accuracy(test.accuracy),
            f"{_short(test.energy_vs_w8a8)} ± {_short(usage.energy_std)}",
            _range(usage.energy_quantiles),
            _tiny_percent(usage.deciding / test.energy_vs_w8a8),
            _percent(wide_share(usage)),
            *ends,
            _bits(test.mean_weight_bits, test.mean_activation_bits),
        )
    return table


def _members(finalists: Sequence[_Finalist]) -> Table:
    """Return a row for each member: what it costs, and how often it was run and answered."""
    table = _table(
        *("finalist", "member", "w/a by layer", "energy", "run on", "answered"),
        *("threshold", "temperature"),
    )
    for finalist in finalists:
        usage, dynamic = finalist.usage, finalist.usage.allocation
        asked = len(dynamic.thresholds)
        for number, member in enumerate(dynamic.members):
            table.add_row(
                finalist.name if not number else "",
                str(number + 1),
                _bits(fmean(member.weights), fmean(member.activations)),
                _ratio(usage.member_energies[number]) if usage.member_energies else "",
                _percent(usage.ran[number]),
                _percent(usage.answered[number]),
                f"{dynamic.thresholds[number]:.3f}" if number < asked else "",
                f"{dynamic.temperatures[number]:.3f}" if number < asked else "",
            )
    return table


def _widths(finalists: Sequence[_Finalist]) -> Table | None:
    """Return shares by width, and of attention; None if two widths are all there is to tell."""
    by_width = [width_shares(finalist.usage) for finalist in finalists]
    attention = [attention_shares(finalist.usage) for finalist in finalists]
    widths = sorted({width for shares in by_width for width in shares}, reverse=True)
    roles = list(dict.fromkeys(role for shares in attention for role in shares))
    if len(widths) <= 2 and not roles:
        return None
    headings = (*(f"{width} bit" for width in widths), *(f"wide {role}" for role in roles))
    table = _table("finalist", *headings)
    for finalist, shares, wide in zip(finalists, by_width, attention, strict=True):
        cells = [shares.get(width) for width in widths] + [wide.get(role) for role in roles]
        table.add_row(finalist.name, *("" if cell is None else _percent(cell) for cell in cells))
    return table


def _groups(finalists: Sequence[_Finalist]) -> Table:
    """Return a row for each third of the inputs by entropy."""
    table = _table("finalist", "entropy of inputs", "bits", "accuracy", "energy", "wide")
    for finalist in finalists:
        for number, (name, group) in enumerate(named_terciles(finalist.usage).items()):
            table.add_row(
                finalist.name if not number else "",
                name,
                f"{group.entropy:.2f}",
                _accuracy(group.accuracy),
                _ratio(group.energy),
                _percent(group.wide_share),
            )
    return table


def _ablations(
    finalists: Iterable[_Finalist], pooled: Mapping[str, tuple[int, Difference]]
) -> Table:
    """Return a row for each comparison with choices that do not follow the input, and means."""
    table = _table(
        "finalist", "choices", "accuracy", "energy", "following the input is worth, points"
    )
    for finalist in finalists:
        differences = worth(finalist.test)
        for number, ablation in enumerate(finalist.usage.ablations):
            table.add_row(
                finalist.name if not number else "",
                ablation.name,
                _accuracy(ablation.accuracy),
                _ratio(ablation.energy),
                str(differences[ablation.name]),
            )
    for name, (seeds, difference) in pooled.items():
        table.add_row(f"mean of {seeds} seeds", name, "", "", str(difference))
    return table


def _pooled(result: StudyResult, strategy: str) -> dict[str, tuple[int, Difference]]:
    """Return, by ablation, how many seeds there are and what following the input is worth.

    It is of all finalists of the strategy, shown or not: those on the common front are there for
    what they did on these very images. Every seed counts once, with the mean over its finalists.
    """
    by_name: dict[str, dict[int, dict[str, float]]] = {}
    for point in result.points:
        if point.strategy == strategy and point.test.dynamic is not None and not point.test.failed:
            network = point.test.network or point.test.dynamic.allocation.key
            for name, difference in worth(point.test).items():
                of_seed = by_name.setdefault(name, {}).setdefault(point.seed, {})
                of_seed[network] = difference.points
    return {
        name: (len(seeds), over_seeds([fmean(found.values()) for found in seeds.values()]))
        for name, seeds in by_name.items()
        if len(seeds) > 1
    }


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for heading in headings:
        text = heading in ("finalist", "choices", "entropy of inputs")
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=heading != "finalist"
        )
    return table


def _accuracy(share: float) -> str:
    return f"{100 * share:.2f} %"


def _ratio(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _short(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _range(quantiles: Sequence[float]) -> str:
    return f"{_short(quantiles[0])}-{_short(quantiles[-1])}" if quantiles else ""


def _bits(weights: float, activations: float) -> str:
    return f"{weights:.1f}/{activations:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _slashed(shares: tuple[float, float] | None) -> str:
    return "" if shares is None else "/".join(f"{100 * share:.1f}" for share in shares)


def _tiny_percent(share: float) -> str:
    """Write a share in percent with as many digits as it needs to be told from nothing.

    Examples:
        >>> [_tiny_percent(share) for share in (0.0, 1e-8, 0.000234, 0.0123)]
        ['0', '<0.0001 %', '0.0234 %', '1.23 %']
    """
    percent = 100 * share
    if not math.isfinite(percent):
        return ""
    if not percent:
        return "0"
    if percent < 0.00005:
        return "<0.0001 %"
    return f"{percent:.4f} %" if percent < 0.1 else f"{percent:.2f} %"
