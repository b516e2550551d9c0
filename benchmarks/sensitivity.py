"""Every layer at every width, one at a time: with the work that candidates share, and without."""

from functools import partial

import torch

from bitfront.models.config import ScoreConfig, ScoreKind
from bitfront.models.engine import Engine
from bitfront.models.evaluate import Counts, evaluate_each
from bitfront.models.sensitivity import compute_scores
from bitfront.spaces import BitAllocation, BitSpace, Scores

from .cases import load
from .record import Entry
from .timing import interleaved

WIDTHS = range(2, 9)
IMAGES = 64


def sweep(name: str) -> dict[str, Entry]:
    """Compare one call for all allocations with a call for each, on the same engine.

    Args:
        name: Case.
    """
    loaded = load(name)
    engine = Engine(loaded.quantized(), loaded.batch[:4])
    images, batch = loaded.images, loaded.case.batch
    allocations = one_at_a_time(loaded.uniform)

    def shared() -> list[Counts]:
        return evaluate_each(engine, allocations, images, batch, IMAGES)

    def naive() -> list[Counts]:
        return [evaluate_each(engine, [one], images, batch, IMAGES)[0] for one in allocations]

    same = [(c.correct, c.loss_sum) for c in shared()] == [(c.correct, c.loss_sum) for c in naive()]
    assert same, "sharing work must not change a result"
    timings = interleaved({"shared": shared, "naive": naive})
    note = f"{len(allocations)} allocations, {IMAGES} images"
    return {f"sensitivity.{name}.vs_naive": timings.times_as_fast("naive", "shared", note=note)}


def scores(name: str) -> dict[str, Entry]:
    """Time scores of weights of 2, 4 and 8 bits, and the gradient score against one float pass.

    Args:
        name: Case.
    """
    loaded = load(name)
    model = loaded.quantized()
    batches = list(loaded.calibration.batches(loaded.case.batch))
    space = BitSpace.build(loaded.layers, weights=(2, 4, 8), activations=(8,))
    choices = [
        (space.weight_choices(i), space.activation_choices(i)) for i in range(len(loaded.layers))
    ]

    def score(kind: ScoreKind) -> Scores:
        return compute_scores(model, batches, ScoreConfig(kind=kind), choices, "benchmark")

    @torch.inference_mode()
    def float_pass() -> None:
        for x, _ in batches:
            model(x)

    kinds: tuple[ScoreKind, ...] = ("mse", "kl", "fisher", "taylor")
    timings = interleaved({"float": float_pass} | {kind: partial(score, kind) for kind in kinds}, 5)
    note = f"weights of 2, 4 and 8 bits, {len(loaded.calibration)} images"
    prefix = f"sensitivity.{name}"
    return {
        f"{prefix}.{kind}_s": Entry.median_of(
            [sample.wall_s for sample in timings.samples[kind]],
            "s",
            note=note,
            disturbed=timings.disturbed,
        )
        for kind in kinds
    } | {f"{prefix}.fisher_vs_float": timings.times_as_fast("float", "fisher", note=note)}


def one_at_a_time(base: BitAllocation) -> list[BitAllocation]:
    """Return, for every layer and width, the base with both operands of that layer at the width.

    The base itself is there once: no sweep would measure it again for every layer.
    """
    found: dict[BitAllocation, None] = {}
    for index in range(len(base.layers)):
        for width in WIDTHS:
            weights, activations = list(base.weights), list(base.activations)
            weights[index] = activations[index] = width
            found[BitAllocation(base.layers, weights, activations)] = None
    return list(found)
