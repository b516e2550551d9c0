"""The generator of a trial, and where it stands."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spaces import StudyError


def generator(seed: int, label: str, state: Mapping[str, Any] | None = None) -> np.random.Generator:
    """Return the generator of a seed and a label, the same in every process, unlike `hash`.

    Args:
        seed: The trial's seed.
        label: The strategy's label.
        state: Where it stands, as `generator_state` says it; at its start if None.

    Raises:
        StudyError: If the state is not one of such a generator.
    """
    word = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")
    if state is None:
        return np.random.default_rng(np.random.SeedSequence([seed, word]))
    try:
        children = int(state["spawned"])
        made = np.random.default_rng(
            np.random.SeedSequence([seed, word], n_children_spawned=children)
        )
        made.bit_generator.state = state["bits"]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise StudyError(f"it has no state of its generator: {error!r}") from error
    return made


def generator_state(made: np.random.Generator) -> dict[str, Any]:
    """Return where a generator stands, as plain values.

    That is the state of its bits, and how many generators were spawned from it: the next ones are
    to be others.
    """
    spawned = getattr(made.bit_generator.seed_seq, "n_children_spawned", 0)
    return {"bits": dict(made.bit_generator.state), "spawned": spawned}
