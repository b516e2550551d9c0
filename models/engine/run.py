"""Running plans: one, or many that have their first steps in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .plan import Plan
from .steps import Value

Values = dict[Value, Any]


def run_each(plans: Sequence[Plan], inputs: Sequence[Tensor], *, shared_bytes: int) -> list[Tensor]:
    """Return the output of several plans of one graph, bit for bit those of each alone.

    What plans have in common from the start is computed once. Where they part, the values that
    are still to be read are kept until the last of them has gone on.

    Args:
        plans: At least one.
        inputs: Of the graph.
        shared_bytes: Most memory for kept values; where they would need more, plans run alone.
    """
    outputs: dict[int, Tensor] = {}
    run = _Run(plans, inputs, shared_bytes, outputs)
    run.follow(tuple(range(len(plans))), 0, run.start(), {}, 0)
    return [outputs[number] for number in range(len(plans))]


class _Run:
    def __init__(
        self,
        plans: Sequence[Plan],
        inputs: Sequence[Tensor],
        shared_bytes: int,
        outputs: dict[int, Tensor],
    ) -> None:
        self._plans = plans
        self._inputs = inputs
        self._shared_bytes = shared_bytes
        self._outputs = outputs

    def start(self) -> Values:
        """Return the values before the first step."""
        return {(place, None): x for place, x in enumerate(self._inputs)}

    def follow(
        self,
        members: tuple[int, ...],
        position: int,
        values: Values,
        kept: Mapping[Value, Any],
        kept_bytes: int,
    ) -> None:
        """Run plans that agree up to a position from there to their ends.

        Args:
            members: Their numbers.
            position: Steps done.
            values: What was written and is still to be read.
            kept: Those of the values that other plans read later, so that none may be overwritten.
            kept_bytes: Size of all that is kept.
        """
        while position < len(self._plans[members[0]].steps):
            *others, largest = self._part(members, position)
            if others:
                size = kept_bytes + sum(_nbytes(v) for k, v in values.items() if k not in kept)
                if size > self._shared_bytes:
                    self._follow_alone(members)
                    return
                for group in others:
                    self.follow(
                        group, position, self._needed(group, position, values), values, size
                    )
                members, values = largest, self._needed(largest, position, values)
            self._step(members, position, values, kept)
            position += 1
        for member in members:
            self._outputs[member] = values[self._plans[member].output]

    def _part(self, members: tuple[int, ...], position: int) -> list[tuple[int, ...]]:
        """Return groups of plans with the same next step, the largest last.

        It goes on when the others are done, so that little is kept and not for long.
        """
        if len(members) == 1:
            return [members]
        groups: dict[Any, list[int]] = {}
        for member in members:
            groups.setdefault(self._plans[member].steps[position].key, []).append(member)
        return sorted((tuple(group) for group in groups.values()), key=len)

    def _needed(self, members: tuple[int, ...], position: int, values: Values) -> Values:
        return {
            value: tensor
            for value, tensor in values.items()
            if self._last_read(members, value) >= position
        }

    def _last_read(self, members: tuple[int, ...], value: Value) -> int:
        return max(self._plans[member].last_reads.get(value, -1) for member in members)

    def _step(
        self,
        members: tuple[int, ...],
        position: int,
        values: Values,
        kept: Mapping[Value, Any],
    ) -> None:
        step = self._plans[members[0]].steps[position]
        operands = [values[value] for value in step.reads]
        done = [value for value in step.reads if self._last_read(members, value) <= position]
        taken = step.overwrites
        if taken is not None and (step.must_copy or taken not in done or taken in kept):
            operands[step.reads.index(taken)] = values[taken].clone()
        values[step.writes] = step.run(operands)
        for value in done:
            values.pop(value, None)

    def _follow_alone(self, members: tuple[int, ...]) -> None:
        for member in members:
            self.follow((member,), 0, self.start(), {}, 0)


def _nbytes(value: Any) -> int:
    return value.nbytes if isinstance(value, Tensor) else 0
