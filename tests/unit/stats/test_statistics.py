"""Every statistic of a sketch against the same statistic of the whole data, in float64."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from distviz.stats import statistics as st
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

GOLDEN = Path(__file__).parents[2] / "golden" / "layer0_smollm2.npz"
EXACT = 1e-12
PERCENTILES = {
    "p0_1": 0.1,
    "p1": 1.0,
    "p5": 5.0,
    "p25": 25.0,
    "p50": 50.0,
    "p75": 75.0,
    "p95": 95.0,
    "p99": 99.0,
    "p99_9": 99.9,
}
COLUMNS = [
    *("count", "nan", "inf", "zeros", "min", "max", "mean", "std", "skewness", "kurtosis"),
    *PERCENTILES,
    *("mad", "eps", "near_zero", "l1", "l2", "gini", "entropy_bits"),
]


def _silu_of_normals(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    gate = torch.randn(n, generator=generator) * 1.3 - 0.4
    return torch.nn.functional.silu(gate)


def _heavy_tails(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, generator=generator)
    return (normal * torch.exp(1.5 * torch.randn(n, generator=generator))).clamp(-6e4, 6e4)


DATA = {
    "silu": _silu_of_normals(20_011, 0),
    "gelu": torch.nn.functional.gelu(
        torch.randn(9_000, generator=torch.Generator().manual_seed(1))
    ),
    "heavy_tails": _heavy_tails(15_000, 2),
    "off_centre": 100.0 + torch.randn(5_000, generator=torch.Generator().manual_seed(3)),
    "negative_only": -_heavy_tails(4_001, 4).abs() - 0.01,
    "positive_only": _silu_of_normals(3_000, 5).abs() + 1e-3,
    "relu": torch.relu(_silu_of_normals(6_000, 6)),
    "tiny_values": _silu_of_normals(2_000, 7) * 3e-5,
    "constant": torch.full((1_000,), 0.328125),
    "constant_negative": torch.full((77,), -3.0),
    "single": torch.tensor([-1.75]),
    "all_zeros": torch.zeros(501),
    "both_zeros": torch.tensor([0.0, -0.0, -0.0, 0.0, -0.0]),
    "two_values": torch.tensor([-0.5] * 300 + [2.0] * 700),
    "two_close_values": torch.tensor([100.0] * 999 + [100.5]),
    "pair": torch.tensor([1.0, 3.0]),
    "three": torch.tensor([-1.0, 0.0, 4.0]),
    "four": torch.tensor([-2.0, -0.0, 0.25, 0.5]),
    "opposite": torch.tensor([-1.5, 1.5] * 50),
}
EXACT_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CASES = [(name, grid) for name in DATA for grid in EXACT_DTYPES]


@pytest.fixture(params=CASES, ids="-".join)
def exact(request: pytest.FixtureRequest) -> tuple[Sketch, Floats]:
    """A sketch of 16-bit data and all of that data as float64."""
    name, grid = request.param
    x = DATA[name].to(EXACT_DTYPES[grid])
    sketch = Sketch().add(x)
    assert sketch.grid == grid
    return sketch, x.to(torch.float64).numpy()


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _mean(x: Floats) -> float:
    return math.fsum(x.tolist()) / x.size


def _central(x: Floats, power: int) -> float:
    mean = np.longdouble(_mean(x))
    return float(np.mean((x.astype(np.longdouble) - mean) ** power))


def _lower_median(x: Floats) -> float:
    return float(np.sort(x)[(x.size - 1) // 2])


def _gini(x: Floats) -> float:
    a = np.sort(np.abs(x)).tolist()
    n = len(a)
    weighted = math.fsum(i * value for i, value in enumerate(a, start=1))
    return 2 * weighted / (n * math.fsum(a)) - (n + 1) / n


def _bf16_cells(x: Floats) -> dict[float, int]:
    """Counts by bf16 value; -0 and +0 are one."""
    rounded = torch.from_numpy(x).to(torch.float32).to(torch.bfloat16).to(torch.float64) + 0.0
    values, counts = np.unique(rounded.numpy(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _entropy_bits(x: Floats) -> float:
    shares = [count / x.size for count in _bf16_cells(x).values()]
    return -math.fsum(p * math.log2(p) for p in shares)


def _js_divergence(x: Floats, y: Floats) -> float:
    cells_x, cells_y = _bf16_cells(x), _bf16_cells(y)
    terms = []
    for value in sorted(set(cells_x) | set(cells_y)):
        p, q = cells_x.get(value, 0) / x.size, cells_y.get(value, 0) / y.size
        middle = (p + q) / 2
        terms += [0.5 * share * math.log2(share / middle) for share in (p, q) if share > 0]
    return math.fsum(terms)


def _coarse_cells(x: Floats, least: float) -> dict[int, float]:
    """Shares by coarse cell: each half step between two bf16 values has its part of the count."""
    counts: Counter[int] = Counter()
    for value in x.tolist():
        bits = int(torch.tensor(value, dtype=torch.bfloat16).view(torch.int16)) & 0x7FFF
        counts[-bits if value < 0 else bits] += 1
    smallest = int(torch.tensor(least, dtype=torch.bfloat16).view(torch.int16))
    found: dict[int, float] = defaultdict(float)
    codes = sorted(counts)
    for before, code, after in zip([-(10**9), *codes], codes, [*codes[1:], 10**9], strict=False):
        left, right = (gap if gap <= 128 else 1 for gap in (code - before, after - code))
        for step in range(2 * code - left, 2 * code + right):
            magnitude = step + 1 if step >= 0 else -step
            # A cell begins half a step below a multiple of 16, if that is not below the least.
            cell = magnitude // 32
            cell = cell if 16 * cell - 0.5 >= smallest else 0
            found[cell if step >= 0 else -cell] += counts[code] / (left + right) / x.size
    return found


def _coarse_js(x: Floats, y: Floats) -> float:
    least = min(np.abs(x).mean(), np.abs(y).mean()) / 1024
    cells_x, cells_y = _coarse_cells(x, least), _coarse_cells(y, least)
    total = 0.0
    for cell in cells_x.keys() | cells_y.keys():
        p, q = cells_x.get(cell, 0.0), cells_y.get(cell, 0.0)
        total += sum(0.5 * part * math.log2(2 * part / (p + q)) for part in (p, q) if part)
    return total


def _ks(x: Floats, y: Floats) -> float:
    places = np.unique(np.concatenate([x, y]) + 0.0)
    below_x = np.searchsorted(np.sort(x), places, side="right") / x.size
    below_y = np.searchsorted(np.sort(y), places, side="right") / y.size
    return float(np.abs(below_x - below_y).max())


def _scale(x: Floats) -> float:
    return float(np.abs(x).max())


# --- one distribution, exactly ---------------------------------------------------------------


def test_mean_and_std(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    std = math.sqrt(_central(x, 2))
    assert sketch.mean() == pytest.approx(_mean(x), rel=EXACT, abs=EXACT * std)
    assert sketch.std() == pytest.approx(std, rel=EXACT, abs=0.0)
    moments = st.moments(sketch)
    assert set(moments) == {"mean", "std", "skewness", "kurtosis"}
    assert moments["mean"] == sketch.mean()
    assert moments["std"] == sketch.std()


def test_skewness_and_kurtosis(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    moments = st.moments(sketch)
    variance = _central(x, 2)
    if variance == 0:
        assert np.isnan(moments["skewness"])
        assert np.isnan(moments["kurtosis"])
        return
    skewness = _central(x, 3) / variance**1.5
    kurtosis = _central(x, 4) / variance**2 - 3
    assert moments["skewness"] == pytest.approx(skewness, rel=EXACT, abs=EXACT)
    assert moments["kurtosis"] == pytest.approx(kurtosis, rel=EXACT, abs=3 * EXACT)


def test_moments_agree_with_scipy() -> None:
    x = DATA["silu"].to(torch.bfloat16)
    values = x.to(torch.float64).numpy()
    moments = st.moments(Sketch().add(x))
    assert moments["skewness"] == pytest.approx(scipy_stats.skew(values), rel=1e-9)
    assert moments["kurtosis"] == pytest.approx(scipy_stats.kurtosis(values), rel=1e-9)


def test_percentiles_by_linear_interpolation(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    described = st.describe(sketch)
    for column, percent in PERCENTILES.items():
        place = percent / 100 * (x.size - 1)
        around = np.sort(x)[[math.floor(place), math.ceil(place)]]
        allowed = EXACT * _scale(around) * max(1, place)
        expected = float(np.percentile(x, percent))
        assert described[column] == pytest.approx(expected, rel=EXACT, abs=allowed), column


def test_quantile_takes_scalars_and_arrays(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    q = np.array([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])
    expected = np.quantile(x, q)
    found = sketch.quantile(q)
    assert np.shape(found) == q.shape
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT * _scale(x))
    assert np.ndim(sketch.quantile(0.5)) == 0
    assert sketch.quantile(0.0) == x.min()
    assert sketch.quantile(1.0) == x.max()


def test_center_and_mad_are_lower_medians(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    center, mad = st.center_and_mad(sketch)
    magnitude = np.abs(x)
    expected_center = _lower_median(magnitude)
    assert center == expected_center
    assert mad == _lower_median(np.abs(magnitude - expected_center))


@pytest.mark.parametrize("n", range(1, 12))
def test_lower_medians_of_few_values(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator).to(torch.bfloat16)
    magnitude = np.abs(x.to(torch.float64).numpy())
    center, mad = st.center_and_mad(Sketch().add(x))
    assert center == sorted(magnitude.tolist())[(n - 1) // 2]
    assert mad == sorted(np.abs(magnitude - center).tolist())[(n - 1) // 2]


def test_near_zero_is_a_strict_share(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    magnitude = np.sort(np.abs(x))
    thresholds = [0.0, 1e-6, 0.01, 0.3, 1e9, *magnitude[[0, x.size // 3, -1]].tolist()]
    for eps in thresholds:
        expected = int((np.abs(x) < eps).sum()) / x.size
        assert st.near_zero(sketch, eps) == pytest.approx(expected, rel=EXACT, abs=0.0), eps


def test_near_zero_just_above_a_value(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    value = float(np.sort(np.abs(x))[x.size // 2])
    above = math.nextafter(value, math.inf)
    assert st.near_zero(sketch, above) == pytest.approx(int((np.abs(x) <= value).sum()) / x.size)


def test_norms(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    assert st.l1(sketch) == pytest.approx(math.fsum(np.abs(x).tolist()), rel=EXACT, abs=0.0)
    squares = math.fsum((x * x).tolist())
    assert st.l2(sketch) == pytest.approx(math.sqrt(squares), rel=EXACT, abs=0.0)


def test_gini(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    if not np.any(x):
        assert np.isnan(st.gini(sketch)) or st.gini(sketch) == 0.0
        return
    assert st.gini(sketch) == pytest.approx(_gini(x), rel=EXACT, abs=4 * EXACT)


def test_gini_of_known_distributions() -> None:
    one_of_four = Sketch().add(torch.tensor([0.0, 0.0, 0.0, -8.0], dtype=torch.bfloat16))
    assert st.gini(one_of_four) == pytest.approx(0.75, rel=EXACT)
    equal = Sketch().add(torch.tensor([2.0, -2.0, 2.0], dtype=torch.bfloat16))
    assert st.gini(equal) == pytest.approx(0.0, abs=EXACT)


def test_entropy(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    assert st.entropy_bits(sketch) == pytest.approx(_entropy_bits(x), rel=EXACT, abs=EXACT)


def test_entropy_of_known_distributions() -> None:
    signed_zeros = Sketch().add(torch.tensor([0.0, -0.0], dtype=torch.bfloat16))
    assert st.entropy_bits(signed_zeros) == 0.0
    four = Sketch().add(torch.tensor([1.0, 2.0, 3.0, -0.0], dtype=torch.bfloat16))
    assert st.entropy_bits(four) == pytest.approx(2.0, rel=EXACT)
    # 1 and 1 + 2^-10 are two cells of fp16 and one of bf16
    fine = Sketch().add(torch.tensor([1.0, 1.0 + 2.0**-10], dtype=torch.float16))
    assert fine.pairs()[0].size == 2
    assert st.entropy_bits(fine) == 0.0


def test_describe_has_the_columns_of_the_table(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    described = st.describe(sketch)
    assert list(described) == COLUMNS
    assert (described["count"], described["nan"], described["inf"]) == (x.size, 0, 0)
    assert described["zeros"] == int((x == 0).sum())
    assert (described["min"], described["max"]) == (x.min(), x.max())
    functions: dict[str, Any] = {
        **st.moments(sketch),
        "mad": st.center_and_mad(sketch)[1],
        "l1": st.l1(sketch),
        "l2": st.l2(sketch),
        "gini": st.gini(sketch),
        "entropy_bits": st.entropy_bits(sketch),
    }
    for name, expected in functions.items():
        assert described[name] == pytest.approx(expected, rel=EXACT, abs=EXACT, nan_ok=True), name


@pytest.mark.parametrize("c", [0.13, 0.45])
def test_describe_takes_its_own_eps(exact: tuple[Sketch, Floats], c: float) -> None:
    sketch, x = exact
    described = st.describe(sketch, c=c)
    magnitude = np.abs(x)
    mad = _lower_median(np.abs(magnitude - _lower_median(magnitude)))
    assert described["mad"] == mad
    assert described["eps"] == pytest.approx(1.4826 * mad * c, rel=EXACT, abs=0.0)
    assert described["near_zero"] == np.mean(magnitude < 1.4826 * mad * c)
    given = st.describe(sketch, eps=0.25)
    assert given["eps"] == 0.25
    assert given["near_zero"] == np.mean(magnitude < 0.25)


def test_describe_default_c_is_that_of_arm() -> None:
    sketch = Sketch().add(DATA["silu"].to(torch.bfloat16))
    assert st.describe(sketch) == st.describe(sketch, c=0.13)
    assert st.describe(sketch) != st.describe(sketch, c=0.2)


def test_nan_and_infinity_take_no_part() -> None:
    x = DATA["silu"].to(torch.bfloat16)
    spoiled = torch.cat([x, torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.bfloat16)])
    clean = st.describe(Sketch().add(x))
    found = st.describe(Sketch().add(spoiled))
    assert (found["nan"], found["inf"]) == (1, 2)
    assert {**found, "nan": 0, "inf": 0} == clean


def test_extreme_magnitudes_do_not_overflow() -> None:
    x = torch.tensor([3e38, -3e38, 2.5e38, 1e-39, -1e-39, 1.0], dtype=torch.bfloat16)
    values = x.to(torch.float64).numpy()
    sketch = Sketch().add(x)
    moments = st.moments(sketch)
    assert moments["std"] == pytest.approx(math.sqrt(_central(values, 2)), rel=EXACT)
    variance = _central(values, 2)
    kurtosis = _central(values, 4) / variance**2 - 3
    assert moments["kurtosis"] == pytest.approx(kurtosis, rel=EXACT)
    assert st.l2(sketch) == pytest.approx(math.sqrt(math.fsum((values**2).tolist())), rel=EXACT)


def test_denormals_have_moments() -> None:
    x = torch.tensor([1e-40, 3e-40, -2e-40, 7e-40], dtype=torch.bfloat16)
    values = x.to(torch.float64).numpy()
    moments = st.moments(Sketch().add(x))
    variance = _central(values, 2)
    assert moments["std"] == pytest.approx(math.sqrt(variance), rel=EXACT, abs=0.0)
    assert moments["skewness"] == pytest.approx(_central(values, 3) / variance**1.5, rel=EXACT)


# --- histograms ------------------------------------------------------------------------------


def _edge_sets(x: Floats) -> list[Floats]:
    low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = low - 1.0, high + 1.0
    values = np.unique(x)
    return [
        np.linspace(low, high, 64),
        np.linspace(-1.0, 1.0, 21),
        np.array([-1e5, -1.0, -0.1, 0.0, 0.1, 1.0, 1e5]),
        np.array([low, high]),
        np.array([-0.5, 0.0]),
        values[:: max(1, values.size // 30)],  # the edges are values themselves
        np.array([-np.inf, 0.0, np.inf]),
    ]


def test_histograms_are_those_of_numpy(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    for edges in _edge_sets(x):
        if edges.size < 2:
            continue
        found = st.histogram(sketch, edges)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, np.histogram(x, bins=edges)[0])


def test_the_last_bin_is_closed_and_the_others_are_not() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0], dtype=torch.bfloat16)
    sketch = Sketch().add(x)
    assert st.histogram(sketch, np.array([0.0, 1.0, 2.0])).tolist() == [2, 5]
    assert st.histogram(sketch, np.array([-1.0, -0.0, 1.0])).tolist() == [0, 5]


def test_every_fp32_value_is_in_a_bin() -> None:
    x = _heavy_tails(5_000, 21)
    sketch = Sketch().add(x)
    # a value may be counted in the cell beside it, 2^-8 away
    reach = (1 + 2.0**-8) * max(abs(sketch.min), abs(sketch.max))
    edges = np.linspace(-reach, reach, 33)
    assert int(st.histogram(sketch, edges).sum()) == sketch.count


# --- fp32 within its bounds ------------------------------------------------------------------


ACTIVATIONS = {"silu", "gelu", "relu"}
WIDE = ["silu", "gelu", "heavy_tails", "negative_only", "positive_only", "relu", "off_centre"]


@pytest.mark.parametrize("name", WIDE)
def test_fp32_within_its_bounds(name: str) -> None:
    x = DATA[name]
    values = x.to(torch.float64).numpy()
    sketch = Sketch().add(x)
    described = st.describe(sketch)
    std = float(values.std())
    # each value is off by 2^-8 of itself at most, so these two bounds always hold
    rms = math.sqrt(float((values**2).mean()))
    assert abs(described["mean"] - values.mean()) <= 2.0**-8 * np.abs(values).mean()
    assert abs(described["std"] - std) <= 2.0**-8 * rms
    if name in ACTIVATIONS:
        assert described["mean"] == pytest.approx(values.mean(), abs=1e-4 * std)
        assert described["std"] == pytest.approx(std, rel=1e-4)
    assert (described["min"], described["max"]) == (values.min(), values.max())
    assert described["zeros"] == int((values == 0).sum())
    magnitude = np.sort(np.abs(values))
    center, mad = st.center_and_mad(sketch)
    assert center == pytest.approx(magnitude[(x.numel() - 1) // 2], rel=2.0**-8)
    cell = 2.0**-7 * max(center, mad) * 2
    assert mad == pytest.approx(_lower_median(np.abs(magnitude - center)), abs=cell)
    assert described["l1"] == pytest.approx(float(magnitude.sum()), rel=2.0**-8)
    assert described["l2"] == pytest.approx(math.sqrt(float((magnitude**2).sum())), rel=2.0**-8)


@pytest.mark.parametrize("sequence", [0, 1])
def test_fp32_of_a_real_layer(sequence: int) -> None:
    with np.load(GOLDEN) as archive:
        values = archive["x"][sequence].astype(np.float64)
    described = st.describe(Sketch().add(values))
    std = float(values.std())
    assert described["mean"] == pytest.approx(float(values.mean()), abs=1e-4 * std)
    assert described["std"] == pytest.approx(std, rel=1e-4)
    assert described["gini"] == pytest.approx(_gini(values.ravel()), rel=1e-4)
    assert described["l1"] == pytest.approx(float(np.abs(values).sum()), rel=1e-4)
    magnitude = np.abs(values)
    mad = _lower_median(np.abs(magnitude - _lower_median(magnitude.ravel())).ravel())
    cell = 2.0**-7 * _lower_median(magnitude.ravel())
    assert described["mad"] == pytest.approx(mad, abs=cell)
    eps = described["eps"]
    either_side = [float((magnitude < (1 + side * 2.0**-7) * eps).mean()) for side in (-1, 1)]
    assert either_side[0] <= described["near_zero"] <= either_side[1]


@pytest.mark.parametrize("name", WIDE)
def test_fp32_order_statistics(name: str) -> None:
    values = np.sort(DATA[name].to(torch.float64).numpy())
    sketch = Sketch().add(DATA[name])
    cells = np.repeat(*sketch.pairs())
    assert np.all(np.abs(cells - values) <= 2.0**-8 * np.abs(values))
    ranks = np.arange(0, values.size, 101)
    found = np.asarray(sketch.quantile(ranks / (values.size - 1)))
    # ranks / (n - 1) may miss the whole rank by an ulp, and then a neighbour has a tiny share
    allowed = 2.0**-8 * np.abs(values[ranks]) + 1e-9 * np.abs(values).max()
    assert np.all(np.abs(found - values[ranks]) <= allowed)


# --- two distributions -----------------------------------------------------------------------


PAIRS = [
    ("silu", "gelu"),
    ("silu", "heavy_tails"),
    ("relu", "silu"),
    ("negative_only", "positive_only"),
    ("constant", "constant_negative"),
    ("single", "silu"),
    ("all_zeros", "both_zeros"),
    ("all_zeros", "two_values"),
    ("pair", "three"),
    ("four", "single"),
    ("tiny_values", "all_zeros"),
]
GRID_PAIRS = [("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp16"), ("fp16", "bf16")]


@pytest.fixture(
    params=[(pair, grids) for pair in PAIRS for grids in GRID_PAIRS],
    ids=lambda p: "-".join(p[0] + p[1]),
)
def two(request: pytest.FixtureRequest) -> tuple[Sketch, Sketch, Floats, Floats]:
    names, grids = request.param
    a, b = (DATA[n].to(EXACT_DTYPES[g]) for n, g in zip(names, grids, strict=True))
    float_a, float_b = a.to(torch.float64).numpy(), b.to(torch.float64).numpy()
    return Sketch().add(a), Sketch().add(b), float_a, float_b


def test_ks(two: tuple[Sketch, Sketch, Floats, Floats]) -> None:
    a, b, x, y = two
    found = st.ks(a, b)
    assert found == pytest.approx(_ks(x, y), rel=EXACT, abs=EXACT)
    scipy = scipy_stats.ks_2samp(x + 0.0, y + 0.0, method="asymp").statistic
    assert found == pytest.approx(scipy, rel=EXACT, abs=EXACT)
    assert st.ks(b, a) == pytest.approx(found, rel=EXACT, abs=0.0)


def test_wasserstein(two: tuple[Sketch, Sketch, Floats, Floats]) -> None:
    a, b, x, y = two
    found = st.wasserstein(a, b)
    expected = scipy_stats.wasserstein_distance(x, y)
    assert found == pytest.approx(expected, rel=4 * EXACT, abs=0.0)
    assert st.wasserstein(b, a) == pytest.approx(found, rel=EXACT, abs=0.0)


def test_js_divergence(two: tuple[Sketch, Sketch, Floats, Floats]) -> None:
    a, b, x, y = two
    found = st.js_divergence(a, b)
    expected = _js_divergence(x, y) if a.grid == b.grid else _coarse_js(x, y)
    assert found == pytest.approx(expected, rel=10 * EXACT, abs=EXACT)
    assert -EXACT <= found <= 1 + EXACT
    assert st.js_divergence(b, a) == pytest.approx(found, rel=EXACT, abs=EXACT)


def test_the_distance_to_itself_is_exactly_zero(exact: tuple[Sketch, Floats]) -> None:
    sketch, x = exact
    grid = sketch.grid or "bf16"
    twin = Sketch().add(torch.from_numpy(x).to(EXACT_DTYPES[grid]))
    for other in (sketch, twin, twin + sketch):
        assert st.ks(sketch, other) == 0.0
        assert st.wasserstein(sketch, other) == 0.0
        assert st.js_divergence(sketch, other) == 0.0


def test_the_sign_of_zero_is_no_distance() -> None:
    plus = Sketch().add(torch.tensor([0.0, 1.0], dtype=torch.bfloat16))
    minus = Sketch().add(torch.tensor([-0.0, 1.0], dtype=torch.bfloat16))
    assert plus != minus
    assert (st.ks(plus, minus), st.wasserstein(plus, minus)) == (0.0, 0.0)
    assert st.js_divergence(plus, minus) == 0.0


def test_known_distances() -> None:
    a = Sketch().add(torch.tensor([0.0, 0.0, 0.0, 0.0], dtype=torch.bfloat16))
    b = Sketch().add(torch.tensor([3.0, -0.0], dtype=torch.bfloat16))
    assert st.ks(a, b) == pytest.approx(0.5, rel=EXACT)
    assert st.wasserstein(a, b) == pytest.approx(1.5, rel=EXACT)
    apart = Sketch().add(torch.tensor([9.0, -9.0], dtype=torch.bfloat16))
    assert st.js_divergence(a, apart) == pytest.approx(1.0, rel=EXACT)
    assert st.ks(Sketch().add(torch.tensor([-9.0])), b) == 1.0


def test_js_rounds_both_sides_to_bf16() -> None:
    fine = torch.tensor([1.0, 1.0 + 2.0**-10, 2.0, 2.0 + 2.0**-9], dtype=torch.float16)
    coarse = torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float16)
    a, b = Sketch().add(fine), Sketch().add(coarse)
    assert st.js_divergence(a, b) == 0.0
    assert st.js_divergence(a, Sketch().add(coarse.to(torch.bfloat16))) == 0.0
    assert st.ks(a, b) == 0.25  # the values themselves differ


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_js_of_different_formats_is_that_of_coarse_cells(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(5)
    x = generator.normal(size=1500) * 10.0 ** generator.uniform(-5, 2, size=1500)
    rounded = torch.from_numpy(x[:1000] * 1.3).to(dtype)
    x, y = x.astype(np.float32).astype(np.float64), rounded.double().numpy()
    expected = _coarse_js(x, y)
    a, b = Sketch().add(torch.from_numpy(x).float()), Sketch().add(rounded)
    assert 0.01 < expected < 1
    assert st.js_divergence(a, b) == pytest.approx(expected, rel=1e-9)
    assert st.js_divergence(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("function", ["silu", "gelu", "mish", "relu"])
@pytest.mark.parametrize(
    "dtypes", list(itertools.combinations((torch.float32, torch.float16, torch.bfloat16), 2))
)
@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
def test_js_does_not_see_the_number_format(
    function: str, dtypes: tuple[torch.dtype, torch.dtype], spread: float
) -> None:
    gate = torch.randn(200_000, generator=torch.Generator().manual_seed(1)) * spread
    act = getattr(torch.nn.functional, function)
    a, b = (Sketch().add(act(gate.to(dtype))) for dtype in dtypes)
    changed = Sketch().add(act((gate * 1.25).to(dtypes[1])))
    assert st.js_divergence(a, b) < 1.5e-3
    assert st.js_divergence(a, changed) > 8e-3


def test_js_of_equal_formats_stays_that_of_single_values() -> None:
    a, b = (Sketch().add(torch.tensor([value])) for value in (1.0, 1.0078125))
    assert st.js_divergence(a, b) == 1.0


# --- nothing at all --------------------------------------------------------------------------


EMPTY = [
    pytest.param(Sketch(), id="never-added"),
    pytest.param(Sketch("fp16"), id="fp16"),
    pytest.param(Sketch().add(torch.empty(0, 4)), id="no-values"),
    pytest.param(Sketch().add(torch.tensor([math.nan, math.inf])), id="none-finite"),
]


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_sketch_describes_itself(empty: Sketch) -> None:
    described = st.describe(empty)
    assert list(described) == COLUMNS
    assert (described["count"], described["zeros"]) == (0, 0)
    undefined = ["min", "max", "mean", "std", "skewness", "kurtosis", *PERCENTILES, "mad"]
    for column in [*undefined, "eps", "near_zero", "gini"]:
        assert np.isnan(described[column]), column
    assert (described["l1"], described["l2"]) == (0.0, 0.0)
    assert described["entropy_bits"] == 0.0 or np.isnan(described["entropy_bits"])
    assert all(np.isnan(value) for value in st.center_and_mad(empty))
    assert np.isnan(empty.mean())
    assert np.isnan(empty.std())
    assert np.isnan(empty.quantile(0.5))
    assert np.isnan(empty.quantile([0.1, 0.9])).tolist() == [True, True]
    assert [part.size for part in empty.pairs()] == [0, 0]
    assert st.histogram(empty, np.array([0.0, 1.0, 2.0])).tolist() == [0, 0]


@pytest.mark.parametrize("empty", EMPTY)
def test_no_distance_to_nothing(empty: Sketch) -> None:
    other = Sketch().add(torch.tensor([1.0, 2.0], dtype=torch.float16))
    for a, b in ((empty, other), (other, empty), (empty, empty)):
        assert np.isnan(st.ks(a, b))
        assert np.isnan(st.wasserstein(a, b))
        assert np.isnan(st.js_divergence(a, b))


# --- data wider than the grid ----------------------------------------------------------------


def _with_outlier() -> torch.Tensor:
    normal = torch.randn(40, 300, generator=torch.Generator().manual_seed(5))
    normal[7, 11] = 3073.13
    return normal


def _assert_unrounded(sketch: Sketch, x: Floats) -> None:
    variance = _central(x, 2)
    found = st.describe(sketch)
    assert found["mean"] == pytest.approx(_mean(x), abs=1e-12 * math.sqrt(variance))
    assert found["std"] == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert found["skewness"] == pytest.approx(_central(x, 3) / variance**1.5, rel=1e-11)
    assert found["kurtosis"] == pytest.approx(_central(x, 4) / variance**2 - 3, rel=1e-11)
    assert found["l1"] == pytest.approx(math.fsum(np.abs(x).ravel().tolist()), rel=1e-12)
    assert found["l2"] == pytest.approx(math.sqrt(math.fsum((x**2).ravel().tolist())), rel=1e-12)
    energy = found["count"] * (found["std"] ** 2 + found["mean"] ** 2)
    assert found["l2"] ** 2 == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_powers_are_taken_before_rounding(dtype: torch.dtype, offset: float) -> None:
    x = (_with_outlier().double() + offset).to(dtype)
    sketch = Sketch()
    for part in x.split(7):
        sketch = sketch + Sketch().add(part)
    _assert_unrounded(sketch, x.double().numpy().ravel())


@pytest.mark.parametrize("narrow_first", [True, False])
@pytest.mark.parametrize("adds_sketches", [True, False])
def test_data_of_several_types_in_one_sketch(narrow_first: bool, adds_sketches: bool) -> None:
    parts = [_with_outlier(), (_with_outlier() * 2).to(torch.bfloat16)]
    parts = parts[::-1] if narrow_first else parts
    sketch = Sketch()
    for part in parts:
        sketch = sketch + Sketch().add(part) if adds_sketches else sketch.add(part)
    assert sketch.is_rounded
    _assert_unrounded(sketch, torch.cat([part.double() for part in parts]).numpy().ravel())


def test_values_that_are_equal_once_rounded_have_a_shape() -> None:
    x = torch.tensor([1.0, 1.0 + 2.0**-20, 1.0 + 2.0**-20, 1.0])
    sketch = Sketch().add(x)
    assert sketch.pairs()[0].size == 1
    shape = st.moments(sketch)
    assert shape["kurtosis"] == pytest.approx(-2.0)
    assert math.isnan(st.moments(Sketch().add(torch.full((9, 3), 0.1)))["kurtosis"])
