"""What does it cost to choose widths by input?

    python -m benchmarks.selectors [--positions 32]

Profiles networks and prices the selectors that `learnprec` would give them at its settings, under
several tables: their share of the network's energy at 8 bits, the largest share of a layer's that
has one, and their share of all multiply-accumulates. No weights or data are needed.
"""

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from bitfront.energy import EnergyModel, load_table, selector_costs
from bitfront.models.dynamic.layout import Layout
from bitfront.models.dynamic.operands import Slot, layouts
from bitfront.models.profile import profile
from bitfront.models.quantized import QuantizedModel
from bitfront.models.zoo import build_model
from bitfront.searchers.learnprec import LearnPrec
from bitfront.searchers.learnprec_plan import plan
from bitfront.spaces import BitSpace, Layer

NETWORKS = {
    "cnn5": (1, 28),
    "resnet20": (3, 32),
    "resnet18": (3, 224),
    "mobilenetv3_large_100": (3, 224),
    "efficientnet_b2": (3, 224),
    "deit_small_patch16_224": (3, 224),
}
"""Channels and side of the images, by network."""

TABLES = ("horowitz-45nm", "composite-45nm", "eyeriss", "ptq-psu25")
REFERENCE_BITS = 8
_CLASSES = {28: 10, 32: 10, 224: 1000}

Layouts = Mapping[Slot, Layout]


@dataclass(frozen=True)
class Overhead:
    """What choosing costs, as shares.

    Attributes:
        operands: Operands that choose.
        left_out: Operands that could, but for what their selectors would cost.
        network: Of the network's energy at 8 bits.
        largest: Of the energy at 8 bits of the layer that has the dearest selector.
        compute: Of all multiply-accumulates.
    """

    operands: int
    left_out: int
    network: float
    largest: float
    compute: float


def profiled(name: str) -> tuple[tuple[Layer, ...], Layouts]:
    """Return the layers of a network of random weights, and the layouts of what could choose.

    Args:
        name: One of `NETWORKS`.
    """
    channels, side = NETWORKS[name]
    model = build_model(name, classes=_CLASSES[side], input_shape=(channels, side, side)).eval()
    layers = profile(model, (channels, side, side))
    # Of an odd number that no other size of the network has.
    example = torch.zeros(3, channels, side, side)
    return layers, layouts(QuantizedModel(model, layers), example)


def overhead(
    layers: tuple[Layer, ...], known: Layouts, table: str, settings: LearnPrec
) -> Overhead:
    """Return what it costs to choose.

    Args:
        layers: The network.
        known: Layouts of what could choose.
        table: Prices it.
        settings: Of the selectors.
    """
    energy, space = EnergyModel(load_table(table), layers), BitSpace.build(layers)
    found = plan(space, energy, space.uniform(REFERENCE_BITS), settings, known)
    if found is None:
        return Overhead(0, 0, 0.0, 0.0, 0.0)
    selectors = found.dynamic.selectors
    costs = selector_costs(energy, selectors)
    names = [layer.name for layer in layers]
    whole = energy.layer_costs[:, REFERENCE_BITS, REFERENCE_BITS]
    return Overhead(
        len(selectors),
        len(found.left_out),
        float(costs.sum() / energy.w8a8),
        max(float(c / whole[names.index(s.layer)]) for c, s in zip(costs, selectors, strict=True)),
        sum(s.macs for s in selectors) / sum(layer.macs for layer in layers),
    )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=LearnPrec().positions)
    settings = LearnPrec(positions=parser.parse_args().positions)
    warnings.simplefilter("ignore")
    print("| network | table | choose | left out | of energy | of a layer's, most | of compute |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (_, side) in NETWORKS.items():
        layers, known = profiled(name)
        for table in TABLES:
            cost = overhead(layers, known, table, settings)
            print(
                f"| {name}, {side} x {side} | {table} | {cost.operands} | {cost.left_out} | "
                f"{cost.network:.4%} | {cost.largest:.4%} | {cost.compute:.4%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
