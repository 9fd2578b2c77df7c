"""Number formats against torch's own fp8, and against quantizing raw values one way or another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distviz.stats.number_formats import FORMATS, Quantizer, losses

FP8 = {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}


def every_code(name: str) -> np.ndarray:
    """All finite values of the type, decoded by torch from its 256 codes."""
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    values = codes.view(FP8[name]).to(torch.float64).numpy()
    return values[np.isfinite(values)]


@pytest.mark.parametrize("name", FP8)
def test_the_levels_of_fp8_are_those_of_torch(name: str) -> None:
    found = FORMATS[name].levels
    assert found.tolist() == sorted({abs(value) for value in every_code(name)})


def test_the_levels_of_integers() -> None:
    sizes = {name: FORMATS[name].levels.tolist() for name in FORMATS if name.startswith("int")}
    assert sizes == {
        "int8": list(range(128)),
        "int8-asym": list(range(256)),
        "int4": list(range(8)),
        "int4-asym": list(range(16)),
    }


@pytest.mark.parametrize("name", FP8)
def test_every_bf16_value_rounds_to_fp8_as_in_torch(name: str) -> None:
    codes = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    x = codes.view(torch.bfloat16)
    x = x[torch.isfinite(x)]
    top = torch.finfo(FP8[name]).max
    expected = x.clamp(-top, top).to(FP8[name]).to(torch.float64).numpy()
    values = x.to(torch.float64).numpy()
    found, is_clipped = Quantizer(FORMATS[name], 1.0).keep(values)
    np.testing.assert_array_equal(found, expected)
    # halfway to the number that would come next still rounds down: its last bit is even
    edge = {"fp8-e4m3": 464.0, "fp8-e5m2": 61440.0}[name]
    beyond = np.abs(values) > edge if name == "fp8-e4m3" else np.abs(values) >= edge
    np.testing.assert_array_equal(is_clipped, beyond)


@pytest.mark.parametrize("scale", [1.0, 0.3, 1 / 127, 2.0**-40, 1e30])
@pytest.mark.parametrize("name", FORMATS)
def test_every_value_goes_to_its_nearest_number(name: str, scale: float) -> None:
    generator = np.random.default_rng(3)
    form = FORMATS[name]
    zero_points = (0, 3, form.levels.size - 1) if form.is_asymmetric else (0,)
    for zero_point in zero_points:
        if form.is_asymmetric:
            grid = np.arange(form.levels.size) - zero_point
        else:
            grid = np.concatenate([-form.levels[::-1], form.levels])
        reach = 1.5 * np.abs(grid).max()
        x = np.concatenate([generator.uniform(-reach, reach, 300), grid, [0.0, -0.0]]) * scale
        x = np.concatenate([x, generator.normal(size=100) * scale])
        quantizer = Quantizer(form, scale, zero_point)
        found, _ = quantizer.keep(x)
        distance = np.abs(x[:, None] - grid * scale).min(axis=1)
        np.testing.assert_allclose(np.abs(x - found), distance, rtol=1e-12, atol=1e-12 * scale)
        assert quantizer.lowest == pytest.approx(grid.min() * scale, abs=0)
        assert quantizer.highest == pytest.approx(grid.max() * scale, abs=0)


@pytest.mark.parametrize(
    ("name", "zero_point", "x", "expected", "clipped"),
    [
        # ties to even, and what rounds to a number inside is not clipped
        ("int4", 0, [0.5, 1.5, 2.5, -0.5, -1.5], [0, 2, 2, 0, -2], [0, 0, 0, 0, 0]),
        ("int4", 0, [7.0, 7.4, 7.5, 7.6, -7.6, -8.0], [7, 7, 7, 7, -7, -7], [0, 0, 1, 1, 1, 1]),
        ("int4-asym", 3, [-3, -3.4, -4, 12.4, 13], [-3, -3, -3, 12, 12], [0, 0, 1, 0, 1]),
        ("int4-asym", 0, [-1, 0, 15, 16], [0, 0, 15, 15], [1, 0, 0, 1]),
        ("int8", 0, [127.4, -128.0], [127, -127], [0, 1]),
        # e4m3: steps of 2^-9 below 2^-6, of 32 at the top; 448 is the largest
        ("fp8-e4m3", 0, [2**-10, 3 * 2**-10, 1.0625, 432.0], [0, 2 * 2**-9, 1.0, 448.0], [0] * 4),
        ("fp8-e4m3", 0, [464.0, 465.0, -1e30], [448, 448, -448], [0, 1, 1]),
        ("fp8-e5m2", 0, [2**-17, 1.125, 1.375, 1e30], [0, 1.0, 1.5, 57344], [0, 0, 0, 1]),
    ],
)  # fmt: skip
def test_known_roundings(
    name: str, zero_point: int, x: list[float], expected: list[float], clipped: list[int]
) -> None:
    found, is_clipped = Quantizer(FORMATS[name], 1.0, zero_point).keep(np.array(x, float))
    assert found.tolist() == expected
    assert is_clipped.tolist() == [bool(flag) for flag in clipped]


def test_a_scale_of_zero_keeps_nothing() -> None:
    found, is_clipped = Quantizer(FORMATS["int8"], 0.0).keep(np.array([-1.0, 0.0, 2.0]))
    assert found.tolist() == [0, 0, 0]
    assert is_clipped.tolist() == [True, False, True]


def test_losses_weigh_by_counts() -> None:
    values = np.array([-2.0, 0.0, 0.4, 1.0, 9.0])
    counts = np.array([3, 5, 2, 4, 1])
    found = losses(values, counts, Quantizer(FORMATS["int4"], 1.0), np.array([1, 1, 1, 1, 0.0]))
    raw = np.repeat(values, counts)
    kept = np.repeat([-2.0, 0.0, 0.0, 1.0, 7.0], counts)
    noise, signal = ((raw - kept) ** 2).sum(), (raw**2).sum()
    assert found.mse == pytest.approx(noise / 15, rel=1e-14)
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-14)
    assert (found.clipped, found.zeros, found.zeroed) == (1 / 15, 7 / 15, 2 / 15)
    noise, signal = ((raw - kept)[:-1] ** 2).sum(), (raw[:-1] ** 2).sum()
    assert found.sqnr_rest_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-14)


def test_losses_at_the_limits() -> None:
    quantizer = Quantizer(FORMATS["int4"], 1.0)
    ones = np.ones(1, np.int64)
    assert losses(np.array([3.0]), ones, quantizer, ones).sqnr_db == math.inf
    of_zero = losses(np.array([0.0]), ones, quantizer, ones)
    assert math.isnan(of_zero.sqnr_db)
    assert (of_zero.mse, of_zero.zeros, of_zero.zeroed) == (0, 1, 0)
    empty = losses(np.array([]), np.array([], np.int64), quantizer, np.array([]))
    assert all(math.isnan(value) for value in vars(empty).values())
    # a third is no multiple of a seventh of itself in float64: that is no loss of the format
    tiny = losses(np.array([0.1]), ones, Quantizer(FORMATS["int8"], 0.1 / 127), ones)
    assert tiny.sqnr_db == math.inf
