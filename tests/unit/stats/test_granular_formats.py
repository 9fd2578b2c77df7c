"""The table of granular formats."""

from __future__ import annotations

import pytest
from support.brute_formats import BRUTE_FORMATS

from distviz.settings import OPTIONS
from distviz.stats.granular_formats import GRANULAR_FORMATS
from distviz.stats.number_formats import FORMATS


def test_every_format_is_known_to_the_tests_and_each_per_tensor_one_is_there() -> None:
    assert sorted(GRANULAR_FORMATS) == sorted(BRUTE_FORMATS)
    tensors = [one.name for one in GRANULAR_FORMATS.values() if one.unit == "tensor"]
    assert tensors == list(FORMATS)


@pytest.mark.parametrize(
    ("name", "top", "block"),
    [
        ("nvfp4", 6, 16),
        ("mxfp4", 6, 32),
        ("mxfp8", 448, 32),
        ("mxfp8-e5m2", 57344, 32),
        ("int8-token", 127, 0),
        ("fp8-token", 448, 0),
        ("int8-channel", 127, 0),
        ("int4-group128", 7, 128),
    ],
)
def test_largest_element_and_block(name: str, top: float, block: int) -> None:
    assert (GRANULAR_FORMATS[name].top, GRANULAR_FORMATS[name].block) == (top, block)


def test_the_settings_name_all_of_them() -> None:
    assert list(GRANULAR_FORMATS) == list(OPTIONS["formats"].choices)


def test_bits_count_the_scales_of_blocks() -> None:
    bits = {name: one.bits for name, one in GRANULAR_FORMATS.items()}
    assert (bits["nvfp4"], bits["mxfp4"], bits["mxfp8"]) == (4.5, 4.25, 8.25)
    assert bits["int4-group128"] == 4.25
    assert {bits[name] for name in ("int8-token", "fp8-token", "int8-channel", "int8-asym")} == {8}
    assert {bits[name] for name in ("int4", "int4-asym")} == {4}
