"""Weights made ready for computing, kept for reuse within a memory bound."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


class WeightCache:
    """Entries by key, the least recently used dropped beyond a size.

    Copies and pickles are empty.

    Args:
        limit_bytes: Most bytes kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[object, Any]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightCache, (self.limit_bytes,)

    def get(self, key: Hashable, state: object, make: Callable[[], T]) -> T:
        """Return the entry of a key, made anew if it was made in another state.

        Args:
            key: What is kept, of which layer, for which widths.
            state: Changes when the layer's weights do.
            make: Makes the entry.
        """
        if (found := self._entries.pop(key, None)) is not None:
            if found[0] == state:
                self._entries[key] = found
                kept: T = found[1]
                return kept
            self.size_bytes -= found[1].nbytes
        made = make()
        self._entries[key] = (state, made)
        self.size_bytes += made.nbytes
        while self.size_bytes > self.limit_bytes:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.size_bytes -= dropped.nbytes
        return made
