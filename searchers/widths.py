"""The widths a space offers, and the check that a setting names only those."""

from collections.abc import Iterable

from ..spaces import BitSpace, SpaceError


def offered_widths(space: BitSpace) -> tuple[int, ...]:
    """Return every width that some free operand may take, ascending; the pins' if none is free."""
    layers = range(len(space.layers))
    operands = [c for i in layers for c in (space.weight_choices(i), space.activation_choices(i))]
    free = [choices for choices in operands if len(choices) > 1] or operands
    return tuple(sorted({bits for choices in free for bits in choices}))


def check_offered(space: BitSpace, widths: Iterable[int], setting: str) -> None:
    """Check that a setting asks only for widths the space offers.

    Args:
        space: The space to be searched.
        widths: What the setting asks for.
        setting: How to call it in the message.

    Raises:
        SpaceError: Naming the first width that is not offered, and those that are.
    """
    known = offered_widths(space)
    for bits in widths:
        if bits not in known:
            raise SpaceError(
                f"{setting} asks for {bits} bits, and the space offers "
                f"{', '.join(map(str, known))}; change the setting or the space's choices"
            )
