"""Colours stay the same and stay apart, also for eyes that miss one kind of cone."""

import itertools

import numpy as np
import pytest

from bitfront.studies.palette import UNIFORM_STYLE, styles

# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; linear RGB.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    ratios = np.array(TO_XYZ) @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_added_strategy_leaves_others_alone():
    before = styles(["percentile", "uniform", "random"])
    after = styles(["percentile", "uniform", "random", "ilp"])
    assert {label: after[label] for label in before} == before


def test_uniform_is_the_same_in_every_study():
    assert styles(["uniform"])["uniform"] == UNIFORM_STYLE
    assert styles(["a", "b", "uniform"])["uniform"] == UNIFORM_STYLE
    assert styles(["uniform", "a"])["a"] == styles(["a"])["a"]


def test_pairs_of_colour_and_marker_are_distinct():
    drawn = styles([f"s{i}" for i in range(42)]).values()
    assert len({(style.colour, style.marker) for style in drawn}) == 42


@pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
def test_colours_stay_apart(deficiency):
    matrix = np.eye(3) if deficiency is None else np.array(DEFICIENCIES[deficiency])
    labels = ["uniform", *(f"s{i}" for i in range(6))]
    colours = [lab(matrix @ linear(style.colour)) for style in styles(labels).values()]
    # A CIELAB distance of about 2.3 is just noticeable side by side; points lie far apart.
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(one - other) > 8


def test_colours_stand_out_from_white_paper():
    for style in styles(["uniform", *(f"s{i}" for i in range(6))]).values():
        assert lab(linear(style.colour))[0] < 72
