"""Every two styles can be told apart, with each kind of colour vision, on either page."""

import re
from itertools import combinations

import numpy as np
import pytest

from elman.pages.chart import CHART_STYLE
from elman.pages.page import page
from elman.pages.palette import DARK, DASHES, LIGHT, SERIES, SERIES_STYLE

VISION = {
    "normal": np.eye(3),
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
"""Of linear red, green and blue (Machado, Oliveira & Fernandes 2009, severity 1)."""

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(axis=1)


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    ratios = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_measure_is_that_of_the_textbooks():
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_differ_and_most_where_dashes_do_not(colours, vision):
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in colours]
    for one, other in combinations(range(SERIES), 2):
        needed = 40 if (one - other) % len(DASHES) == 0 else 15
        assert np.linalg.norm(seen[one] - seen[other]) >= needed, (one, other)


@pytest.mark.parametrize(("colours", "paper"), [(LIGHT, "#fdfdfc"), (DARK, "#131417")])
def test_colours_stand_out_from_the_page(colours, paper):
    assert f"--paper: {paper}" in page("", [])
    for colour in colours:
        low, high = sorted(TO_XYZ[1] @ linear(each) for each in (colour, paper))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_every_style_is_in_the_css():
    assert len(LIGHT) == len(DARK) == SERIES
    for k in range(SERIES):
        assert f".chart path.s{k} " in SERIES_STYLE
        assert SERIES_STYLE.count(f"--s{k}: ") == 3
    assert SERIES_STYLE.count("{") == SERIES_STYLE.count("}")
    assert not re.search(r"\.s\d", CHART_STYLE)
