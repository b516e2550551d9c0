"""Networks whose sizes are known: the layer of the worked values, ResNet-18 and DeiT-Tiny."""

import warnings

import pytest

from bitfront.energy import (
    EnergyEvidenceWarning,
    EnergyModel,
    load_table,
    table_names,
    variant_names,
)
from bitfront.spaces import Layer

ALL_TABLES = [
    table
    for name in table_names()
    for table in (name, *(f"{name}:{variant}" for variant in variant_names(name)))
]


def conv(name, cin, cout, kernel, stride, size, *, bias=False, groups=1):
    """A convolution that keeps the size but for its stride."""
    out = size // stride
    weights = kernel * kernel * cin // groups * cout
    return Layer(
        name=name,
        kind="conv",
        macs=weights * out * out,
        weight_count=weights,
        bias_count=cout if bias else 0,
        input_count=cin * size * size,
        output_count=cout * out * out,
        in_channels=cin,
        out_channels=cout,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        positions=out * out,
        input_size=(size, size),
    )


def linear(name, fan_in, fan_out, tokens=1):
    return Layer(
        name=name,
        kind="linear",
        macs=fan_in * fan_out * tokens,
        weight_count=fan_in * fan_out,
        bias_count=fan_out,
        input_count=fan_in * tokens,
        output_count=fan_out * tokens,
        in_channels=fan_in,
        out_channels=fan_out,
        positions=tokens,
    )


def matmul(name, heads, rows, inner, columns):
    return Layer(
        name=name,
        kind="matmul",
        macs=heads * rows * inner * columns,
        weight_count=0,
        bias_count=0,
        input_count=heads * rows * inner,
        output_count=heads * rows * columns,
        operand_count=heads * inner * columns,
        in_channels=inner,
        out_channels=columns,
        positions=heads,
    )


def make_resnet18(*, cifar_stem):
    """ResNet-18 at 32 x 32 pixels with 100 classes."""
    stem = conv("conv1", 3, 64, 3, 1, 32) if cifar_stem else conv("conv1", 3, 64, 7, 2, 32)
    layers, size, cin = [stem], 32 if cifar_stem else 8, 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}"
            layers.append(conv(f"{name}.conv1", cin, channels, 3, stride, size))
            layers.append(conv(f"{name}.conv2", channels, channels, 3, 1, size // stride))
            if stride == 2:
                layers.append(conv(f"{name}.downsample.0", cin, channels, 1, stride, size))
            size, cin = size // stride, channels
    return [*layers, linear("fc", 512, 100)]


def make_deit_tiny(*, attention=False):
    """DeiT-Tiny at 224 x 224: 197 tokens of 192 features, 3 heads."""
    layers = [conv("patch_embed", 3, 192, 16, 16, 224, bias=True)]
    for i in range(12):
        layers.append(linear(f"blocks.{i}.qkv", 192, 576, 197))
        if attention:
            layers.append(matmul(f"blocks.{i}.scores", 3, 197, 64, 197))
            layers.append(matmul(f"blocks.{i}.mixing", 3, 197, 197, 64))
        layers.append(linear(f"blocks.{i}.proj", 192, 192, 197))
        layers.append(linear(f"blocks.{i}.fc1", 192, 768, 197))
        layers.append(linear(f"blocks.{i}.fc2", 768, 192, 197))
    return [*layers, linear("head", 192, 1000)]


SMALL = (
    conv("stem", 3, 16, 3, 1, 16, bias=True),
    conv("depthwise", 16, 16, 3, 2, 16, groups=16),
    conv("grouped", 16, 32, 3, 1, 8, groups=4),
    linear("tokens", 32, 48, 64),
    matmul("scores", 2, 64, 8, 64),
    linear("head", 48, 10),
)
"""One layer of each sort."""


def layers_for(table):
    """The small network, or for a table of rows the network it is of."""
    if table.rows is None:
        return SMALL
    return tuple(
        Layer(
            name=row.layer,
            kind="conv",
            macs=row.macs or 1000,
            weight_count=10,
            bias_count=0,
            input_count=10,
            output_count=10,
            in_channels=1,
            out_channels=1,
        )
        for row in table.rows.layers
    )


@pytest.fixture
def worked_layer():
    """3x3 convolution, 64 to 128 channels at 28 x 28."""
    return conv("conv", 64, 128, 3, 1, 28)


@pytest.fixture(params=ALL_TABLES)
def any_table(request):
    return load_table(request.param)


@pytest.fixture
def any_model(any_table):
    """A model under each shipped table and variant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyEvidenceWarning)
        return EnergyModel(any_table, layers_for(any_table))


@pytest.fixture
def small_network():
    return SMALL


@pytest.fixture
def resnet18():
    return make_resnet18


@pytest.fixture
def deit_tiny():
    return make_deit_tiny
