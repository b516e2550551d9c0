"""Layers and spaces that several tests of the ground floor use."""

import pytest

from bitfront.spaces import Layer


def conv(name: str, *, inputs: int = 3, outputs: int = 2, source: str = "") -> Layer:
    return Layer(
        name=name,
        kind="conv",
        macs=inputs * outputs * 9 * 16,
        weight_count=inputs * outputs * 9,
        bias_count=outputs,
        input_count=inputs * 16,
        output_count=outputs * 16,
        in_channels=inputs,
        out_channels=outputs,
        kernel=(3, 3),
        positions=16,
        input_size=(4, 4),
        source=source,
    )


@pytest.fixture
def layers() -> list[Layer]:
    return [conv("stem"), conv("a", source="t"), conv("b", source="t"), conv("head")]
