"""Every worked value of golden.json, from the shipped tables."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from bitfront.energy import EnergyEvidenceWarning, EnergyModel, EnergyOptions, load_table
from bitfront.spaces import BitAllocation

GOLDEN = {
    value["id"]: value
    for value in json.loads((Path(__file__).parent / "golden.json").read_text())["values"]
}
MICRO = 1e-6  # pJ to uJ

# Layers at 4, 6 and 8 bits per shape class, recovered from the publication's energy sums; layers of
# one class are interchangeable.
MIXED_RESNET18 = {
    ("conv1",): (0, 0, 1),
    ("layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"): (0, 2, 2),
    ("layer2.0.conv1",): (0, 0, 1),
    ("layer2.0.conv2", "layer2.1.conv1", "layer2.1.conv2"): (0, 2, 1),
    ("layer2.0.downsample.0",): (0, 1, 0),
    ("layer3.0.conv1",): (0, 1, 0),
    ("layer3.0.conv2", "layer3.1.conv1", "layer3.1.conv2"): (2, 1, 0),
    ("layer3.0.downsample.0",): (0, 1, 0),
    ("layer4.0.conv1",): (1, 0, 0),
    ("layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"): (2, 1, 0),
    ("layer4.0.downsample.0",): (1, 0, 0),
    ("fc",): (0, 0, 1),
}
MIXED_DEIT_TINY = {
    ("patch_embed",): (0, 1, 0),
    tuple(f"blocks.{i}.qkv" for i in range(12)): (0, 10, 2),
    tuple(f"blocks.{i}.proj" for i in range(12)): (11, 1, 0),
    tuple(f"blocks.{i}.fc1" for i in range(12)): (0, 1, 11),
    tuple(f"blocks.{i}.fc2" for i in range(12)): (1, 11, 0),
    ("head",): (1, 0, 0),
}


class Worked:
    """Computes worked values on the layer they are given for."""

    def __init__(self, layer, resnet18, deit_tiny):
        self.layer = layer
        self.networks = {
            "resnet18": resnet18(cifar_stem=False),
            "resnet18.cifar_stem": resnet18(cifar_stem=True),
            "deit_tiny": deit_tiny(),
            "deit_tiny.tokens": deit_tiny(),
        }

    def report(self, table, w, a, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnergyEvidenceWarning)
            model = EnergyModel(load_table(table), [self.layer], options=EnergyOptions(**options))
        return model.price(BitAllocation([self.layer.name], [w], [a]))

    def total(self, table, w, a, **options):
        return self.report(table, w, a, **options).total

    def compute(self, table, w, a):
        return self.report(table, w, a).by_level()["arithmetic"]

    def per_mac(self, table, w, a):
        return self.compute(table, w, a) / self.layer.macs

    def dram(self, table, w, a):
        return self.report(table, w, a, output_bits=8).by_level()["dram"]

    def bits(self, w, a):
        """Bits moved once, by a memory that costs 1 per bit."""
        return self.dram("eqat-glsvlsi25", w, a)

    def relative(self, network, case):
        layers = self.networks[network]
        published = network in ("resnet18", "deit_tiny")
        table = load_table("ptq-psu25:as_published" if published else "ptq-psu25")
        model = EnergyModel(table, layers)
        if case == "mixed":
            classes = MIXED_RESNET18 if network == "resnet18" else MIXED_DEIT_TINY
            bits = {}
            for names, counts in classes.items():
                bits |= dict(zip(names, np.repeat([4, 6, 8], counts).tolist(), strict=True))
            widths = [bits[layer.name] for layer in layers]
            allocation = BitAllocation([x.name for x in layers], widths, widths)
        else:
            allocation = BitAllocation.uniform(layers, int(case))
        return model.costs(allocation).energy_vs_fp32

    def haq(self, width):
        table = load_table("haq-cloud-latency")
        return sum(row.costs[width - 1][width - 1] for row in table.rows.layers)

    def gradient(self, q):
        model = EnergyModel(load_table("eqat-glsvlsi25"), [self.layer])
        bits = torch.tensor([float(q)], dtype=torch.float64, requires_grad=True)
        model.price_torch(bits, bits).backward()
        return bits.grad.item()


def ptq(network, case):
    return lambda x: x.relative(network, case)


def pann(variant, w, a):
    table = "pann" if variant == "signed" else "pann:unsigned"
    return lambda x: x.per_mac(table, w, a)


CASES = {
    "layer.macs": lambda x: x.layer.macs,
    "layer.weights": lambda x: x.layer.weight_count,
    "layer.inputs": lambda x: x.layer.input_count,
    "layer.outputs": lambda x: x.layer.output_count,
    "layer.bits.w4a8": lambda x: x.bits(4, 8),
    "layer.bits.w8a8": lambda x: x.bits(8, 8),
    "horowitz.mac.w8a8": lambda x: x.per_mac("horowitz-45nm", 8, 8),
    "horowitz.mac.w4a8": lambda x: x.per_mac("horowitz-45nm", 4, 8),
    "horowitz.compute.w4a8": lambda x: MICRO * x.compute("horowitz-45nm", 4, 8),
    "horowitz.dram.w4a8": lambda x: MICRO * x.dram("horowitz-45nm", 4, 8),
    "horowitz.dram.w8a8": lambda x: MICRO * x.dram("horowitz-45nm", 8, 8),
    "jouppi.compute.w8a8": lambda x: MICRO * x.compute("jouppi-7nm", 8, 8),
    "jouppi.compute.w4a8": lambda x: MICRO * x.compute("jouppi-7nm", 4, 8),
    "jouppi.hbm2.w4a8": lambda x: MICRO * x.dram("jouppi-7nm", 4, 8),
    "hbm2.transfer.w4a8": lambda x: MICRO * x.total("dram-interfaces:HBM2", 4, 8),
    "lpddr4.w4a8": lambda x: MICRO * x.total("dram-interfaces", 4, 8),
    "eyeriss.16bit": lambda x: x.total("eyeriss", 16, 16),
    "eyeriss.w4a8": lambda x: x.total("eyeriss", 4, 8),
    "bitfusion.compute.w4a8": lambda x: MICRO * x.compute("bitfusion", 4, 8),
    "bitfusion.compute.w6a8": lambda x: MICRO * x.compute("bitfusion", 6, 8),
    "bitfusion.compute.w4a4": lambda x: MICRO * x.compute("bitfusion", 4, 4),
    "bitfusion.fixed8": lambda x: MICRO * x.compute("bitfusion:fixed8", 8, 8),
    "bitfusion.dram.w4a8": lambda x: MICRO * x.dram("bitfusion", 4, 8),
    "pann.signed.w4a8": pann("signed", 4, 8),
    "pann.unsigned.w4a8": pann("unsigned", 4, 8),
    **{f"pann.{v}.{b}": pann(v, b, b) for v in ("signed", "unsigned") for b in (2, 4, 8)},
    # 0.003125 pJ per bit of the accumulator and multiply-accumulate
    "qkeras.accumulator.w4a8": lambda x: round(
        x.report("qkeras", 4, 8).by_component()["accumulate"] / x.layer.macs / 0.003125, 9
    ),
    "qkeras.op.w4a8": lambda x: MICRO * x.compute("qkeras", 4, 8),
    "gates.w4a4.acc32": lambda x: (
        x.total("qkeras-mac-gates", 4, 4) / x.total("qkeras-mac-gates", 8, 8)
    ),
    "gates.w4a8.acc32": lambda x: (
        x.total("qkeras-mac-gates", 4, 8) / x.total("qkeras-mac-gates", 8, 8)
    ),
    "aladdin.compute.w4a8": lambda x: MICRO * x.compute("accelergy-aladdin-40nm", 4, 8),
    "mpic.w4a8": lambda x: MICRO * x.total("mpic", 4, 8),
    "mpic.w8a8": lambda x: MICRO * x.total("mpic", 8, 8),
    "mpic.w2a2": lambda x: MICRO * x.total("mpic", 2, 2),
    # two operations per multiply-accumulate
    "t4.int8": lambda x: x.per_mac("gpu-peak", 8, 8) / 2,
    "a100.int4": lambda x: x.per_mac("gpu-peak:A100", 4, 4) / 2,
    "hawq.resnet18.ratio": lambda _: np.divide(
        *(sum(r.costs[i][i] for r in load_table("hawqv3-t4").rows.layers) for i in (0, 1))
    ),
    "haq.w4a4": lambda x: x.haq(4) / x.haq(8),
    "ptq.layer.32": lambda x: x.total("ptq-psu25", 32, 32),
    "ptq.layer.8": lambda x: x.total("ptq-psu25", 8, 8),
    "ptq.layer.6": lambda x: x.total("ptq-psu25", 6, 6),
    "ptq.layer.4": lambda x: x.total("ptq-psu25", 4, 4),
    "ptq.layer.w4a8": lambda x: x.total("ptq-psu25", 4, 8),
    **{f"ptq.{n}.{c}": ptq(n, c) for n in ("resnet18", "deit_tiny") for c in (8, 6, 4, "mixed")},
    **{
        f"ptq.{n}.{c}": ptq(n, c)
        for n in ("deit_tiny.tokens", "resnet18.cifar_stem")
        for c in (8, 6, 4)
    },
    "eqat.layer.8": lambda x: x.total("eqat-glsvlsi25", 8, 8),
    "eqat.layer.6": lambda x: x.total("eqat-glsvlsi25", 6, 6),
    "eqat.gradient.6": lambda x: x.gradient(6),
}


@pytest.fixture
def worked(worked_layer, resnet18, deit_tiny):
    return Worked(worked_layer, resnet18, deit_tiny)


def test_every_worked_value_has_a_case():
    assert CASES.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_worked_value(name, worked):
    value = GOLDEN[name]
    assert CASES[name](worked) == pytest.approx(value["expected"], rel=value["rel_tol"], abs=0)


@pytest.mark.parametrize(
    ("network", "counts"),
    [
        # layers, macs, weights, biases, inputs, outputs: as ptq-psu25's sources count them
        ("resnet18", (21, 37062656, 11218112, 100, 45056, 50788)),
        ("resnet18.cifar_stem", (21, 555468800, 11210432, 100, 667136, 614500)),
        ("deit_tiny", (50, 1074851328, 5647872, 21928, 3327936, 4123624)),
    ],
)
def test_the_networks_are_those_of_the_publication(network, counts, worked):
    layers = worked.networks[network]
    sums = tuple(
        sum(getattr(layer, name) for layer in layers)
        for name in ("macs", "weight_count", "bias_count", "input_count", "output_count")
    )
    assert (len(layers), *sums) == counts


@pytest.mark.parametrize(("bits", "relative"), [(8, 0.1402), (6, 0.0983), (4, 0.0609)])
def test_attention_matmuls_move_both_operands(bits, relative, deit_tiny):
    layers = deit_tiny(attention=True)
    model = EnergyModel(load_table("ptq-psu25"), layers)
    assert sum(layer.macs for layer in layers) == 1253683200
    costs = model.costs(BitAllocation.uniform(layers, bits))
    assert costs.energy_vs_fp32 == pytest.approx(relative, abs=5e-5)


def test_as_published_leaves_matmuls_out(deit_tiny):
    table = load_table("ptq-psu25:as_published")
    with_matmuls = EnergyModel(table, deit_tiny(attention=True))
    assert with_matmuls.fp32 == EnergyModel(table, deit_tiny()).fp32 == 11047516672
