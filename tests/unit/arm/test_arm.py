"""ARM against the plain reference of ARM.md, and its random numbers against their promises."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats as scipy_stats
from support.arm_reference import SMALLEST_MAD, as_float64, reference_plan, reference_selection

from distviz.arm.arm import ARM
from distviz.arm.plan import Plan
from distviz.errors import RequestError
from distviz.stats import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BITS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"c": 0.45, "p1": 80.0, "p_min": 0.2},
    {"c": 3.0, "p1": 90.0},
    {"c": 0.01, "p1": 0.0},
    {"p1": 100.0, "p_max": 1.0, "c": 1.0},
    {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"},
    {"fraction": 0.0, "p1": 37.3},
    {"fraction": 1.0, "p1": 50.0},
]
# what decides about the plan; `mode`, `passes` and `seed` do not
PLAN_FIELDS = ("center", "mad", "eps", "near", "fraction", "upper", "lower")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _activations(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """SiLU of normals, as after a gate projection."""
    gate = torch.randn(*shape, generator=_generator(seed)) * 1.2 - 0.3
    return torch.nn.functional.silu(gate).to(dtype)


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(BITS[x.dtype])


def _identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, NaN and the sign of zero included."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(_bits(a), _bits(b)))


def _assert_plan(plan: Plan | None, x: torch.Tensor, mask: Any = None, **settings: Any) -> None:
    expected = reference_plan(x, mask, **settings)
    if expected is None:
        assert plan is None
        return
    assert plan is not None
    assert (plan.n, plan.k) == (expected.n, expected.k)
    values = as_float64(x)
    finite = np.abs(values[np.isfinite(values)])
    # an interpolation between neighbours of opposite sign can cancel
    allowed = {"upper": 1e-15 * float(finite.max())}
    found = dataclasses.replace(plan, mad=max(plan.mad, SMALLEST_MAD))  # eps pins the floor
    for name in PLAN_FIELDS:
        approximately = pytest.approx(
            getattr(expected, name), rel=1e-12, abs=allowed.get(name, 0.0)
        )
        assert getattr(found, name) == approximately, name


def _assert_moved(
    x: torch.Tensor, out: torch.Tensor, mask: Any = None, **settings: Any
) -> NDArray[np.int64]:
    """One sequence, mode replace: the selected values lie where they may, the others are as were.

    Returns the selection.
    """
    plan = reference_plan(x, mask, **settings)
    assert out.dtype == x.dtype
    assert out.shape == x.shape
    if plan is None:
        assert _identical(out, x)
        return np.empty(0, dtype=np.int64)
    selected = reference_selection(x, plan.k, mask)
    others = np.setdiff1d(np.arange(x.numel()), selected)
    before, after = _bits(x).reshape(-1).numpy(), _bits(out).reshape(-1).numpy()
    np.testing.assert_array_equal(after[others], before[others])
    old, new = as_float64(x)[selected], as_float64(out)[selected]
    upper, lower = (
        float(torch.tensor(bound, dtype=torch.float32).to(x.dtype))
        for bound in (plan.upper, plan.lower)
    )
    assert np.all((new[old >= 0] >= 0) & (new[old >= 0] <= upper))
    assert np.all((new[old < 0] <= 0) & (new[old < 0] >= lower))
    return selected


# --- settings --------------------------------------------------------------------------------


def test_defaults_are_those_of_the_paper() -> None:
    assert dataclasses.asdict(ARM()) == {
        "c": 0.13,
        "p1": 99.5,
        "p_min": 0.02,
        "p_max": 0.25,
        "fraction": None,
        "mode": "replace",
        "percentile_of": "value",
        "passes": 1,
        "seed": 0,
    }


def test_arm_is_a_frozen_value() -> None:
    arm = ARM(c=0.2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="c"):
        arm.c = 0.3  # type: ignore[misc]
    assert arm == ARM(c=0.2)
    assert arm != ARM(c=0.3)
    assert dataclasses.replace(arm, seed=5) == ARM(c=0.2, seed=5)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"c": 0.0}, r"\bc\b"),
        ({"c": -0.1}, r"\bc\b"),
        ({"c": math.nan}, r"\bc\b"),
        ({"p1": -0.5}, "p1"),
        ({"p1": 100.5}, "p1"),
        ({"p1": math.nan}, "p1"),
        ({"p_min": 0.3, "p_max": 0.2}, r"p[_-]min"),
        ({"p_min": -0.01}, r"p[_-]min"),
        ({"p_max": 1.01}, r"p[_-]max"),
        ({"p_min": math.nan}, r"p[_-]min"),
        ({"fraction": -0.1}, "fraction"),
        ({"fraction": 1.1}, "fraction"),
        ({"fraction": math.nan}, "fraction"),
        ({"mode": "swap"}, "swap"),
        ({"percentile_of": "rank"}, "rank"),
        ({"passes": 0}, "passes"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        ARM(**bad)


def test_limits_are_allowed() -> None:
    ARM(c=1e-9, p1=0.0, p_min=0.0, p_max=1.0)
    ARM(p1=100.0, p_min=0.5, p_max=0.5, fraction=1.0)
    ARM(fraction=0.0, mode="add", percentile_of="magnitude", passes=3, seed=2**31)


# --- plan and selection ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_plan_and_selection(dtype: torch.dtype, chosen: dict[str, Any]) -> None:
    x = _activations(23, 257, seed=11, dtype=dtype)
    arm = ARM(**chosen)
    _assert_plan(arm.plan(x), x, **chosen)
    plan = reference_plan(x, **chosen)
    assert plan is not None
    selected = arm.selected(x)
    assert selected.dtype == np.int64
    np.testing.assert_array_equal(selected, reference_selection(x, plan.k))
    _assert_moved(x, arm(x), **chosen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_large_sequence(dtype: torch.dtype) -> None:
    x = _activations(211, 1536, seed=12, dtype=dtype)
    _assert_plan(ARM().plan(x), x)
    selected = _assert_moved(x, ARM()(x))
    np.testing.assert_array_equal(ARM().selected(x), selected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 14])
@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_few_values(dtype: torch.dtype, n: int, chosen: dict[str, Any]) -> None:
    for seed in range(3):
        x = _activations(1, n, seed=100 * n + seed, dtype=dtype)
        arm = ARM(**chosen)
        _assert_plan(arm.plan(x), x, **chosen)
        _assert_moved(x, arm(x), **chosen)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (6, 2), (10, 2), (14, 4), (18, 4), (22, 6)])
def test_how_many_is_rounded_as_python_rounds(n: int, k: int) -> None:
    assert round(0.25 * n) in {0, k}
    plan = ARM(fraction=0.25).plan(_activations(1, n, seed=n))
    assert plan is not None
    assert plan.k == k


def test_any_shape_is_one_set_for_a_plan() -> None:
    x = _activations(4, 6, 10, seed=13)
    whole = ARM().plan(x)
    assert whole == ARM().plan(x.reshape(24, 10)) == ARM().plan(x.reshape(-1, 1))
    _assert_plan(whole, x)


@some.composite
def sequences(draw: some.DrawFn) -> tuple[torch.Tensor, NDArray[np.bool_] | None]:
    """Few distinct values, so many ties; NaN, infinities and both zeros among them."""
    dtype = draw(some.sampled_from(DTYPES))
    pool = [0.0, -0.0, 1.0, -1.0, 1.0, 0.5, -0.5, 0.25, 3.0, -3.0, 1.0078125, 6e-8, -6e-8]
    pool += [math.nan, math.inf, -math.inf]
    extra = draw(some.lists(some.floats(-8, 8, width=16), max_size=4))
    tokens, channels = draw(some.integers(1, 5)), draw(some.integers(1, 12))
    size = tokens * channels
    values = draw(some.lists(some.sampled_from(pool + extra), min_size=size, max_size=size))
    mask = draw(some.none() | some.lists(some.booleans(), min_size=tokens, max_size=tokens))
    x = torch.tensor(values, dtype=torch.float64).to(dtype).reshape(tokens, channels)
    return x, None if mask is None else np.array(mask)


@bounded
@given(sequences(), some.sampled_from(SETTINGS))
def test_ties_masks_and_non_finite_values(
    sequence: tuple[torch.Tensor, NDArray[np.bool_] | None], chosen: dict[str, Any]
) -> None:
    x, counted = sequence
    mask = None if counted is None else torch.from_numpy(counted)
    arm = ARM(**chosen, seed=4)
    _assert_plan(arm.plan(x, mask), x, counted, **chosen)
    batch_mask = None if mask is None else mask[None]
    selected = _assert_moved(x, arm(x[None], batch_mask)[0], counted, **chosen)
    np.testing.assert_array_equal(arm.selected(x, mask), selected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_index_wins_among_equals(dtype: torch.dtype) -> None:
    x = torch.full((10, 100), 0.75, dtype=dtype)
    x[::2, ::3] = -0.75  # the sign does not matter
    x[3, 7] = 0.5
    selected = ARM(fraction=0.1).selected(x)
    np.testing.assert_array_equal(selected, [*range(99), 307])
    changed = np.flatnonzero((ARM(fraction=0.1)(x) != x).reshape(-1).numpy())
    np.testing.assert_array_equal(np.setdiff1d(changed, selected), [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_many_equal_magnitudes(dtype: torch.dtype) -> None:
    x = torch.randint(-6, 7, (64, 1000), generator=_generator(14)).to(dtype) / 8
    cases: list[dict[str, Any]] = [{}, {"fraction": 0.17}, {"fraction": 0.5}]
    for chosen in cases:
        _assert_plan(ARM(**chosen).plan(x), x, **chosen)
        plan = reference_plan(x, **chosen)
        assert plan is not None
        np.testing.assert_array_equal(ARM(**chosen).selected(x), reference_selection(x, plan.k))
        _assert_moved(x, ARM(**chosen)(x), **chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distinct", [200, 2**15], ids=["repeated", "mostly distinct"])
@pytest.mark.parametrize("tokens", [40, 150])
def test_values_of_one_cell_are_ranked_exactly(
    dtype: torch.dtype, distinct: int, tokens: int
) -> None:
    """All of [1, 1 + 2^-8) rounds to one or two bf16 cells; the order inside still counts."""
    steps = torch.randint(0, distinct, (tokens, 300), generator=_generator(15))
    sign = torch.where(torch.rand(tokens, 300, generator=_generator(16)) < 0.5, -1.0, 1.0)
    x = (sign * (1 + steps * 2.0**-23)).to(dtype)
    cases: list[dict[str, Any]] = [
        {"fraction": 0.3, "p1": 77.7},
        {"c": 3.0},
        {"fraction": 0.02, "p1": 12.0},
    ]
    for chosen in cases:
        _assert_plan(ARM(**chosen).plan(x), x, **chosen)
        _assert_moved(x, ARM(**chosen)(x), **chosen)
    np.testing.assert_array_equal(
        ARM(fraction=0.3).selected(x), reference_selection(x, round(0.3 * x.numel()))
    )


POOLS: dict[str, list[float]] = {
    "three values": [0.0, 1.0, -1.0],
    "halves": [-1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5],
    "one cell": [1.0, 1 + 2.0**-23, 1 + 2.0**-9, -1 - 2.0**-23, 1 + 3 * 2.0**-23, -1.0],
    "denormal": [1e-45, -1e-45, 3e-45, 9.2e-41, -9.2e-41, 6e-8, -6e-8, 0.0, 1e-38],
    "huge": [6e4, -6e4, 3.3e38, -3.3e38, 1.0, 3.4e38, -3.4028234e38, 2.0],
    "spoiled": [math.nan, math.inf, -math.inf, 0.25, -0.25, 0.75, 0.0],
    "negative": [-0.5, -0.25, -1.0, -0.125],
    "one apart": [0.5] * 6 + [-2.0],
    "nothing": [math.nan, math.inf, -math.inf],
    "zeros": [0.0, -0.0],
    "constant": [-0.75],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", POOLS)
def test_large_sequences_of_few_values(dtype: torch.dtype, pool: str) -> None:
    """Long enough for the counting ways, with every kind of tie."""
    values = torch.tensor(POOLS[pool], dtype=torch.float64).to(dtype)
    choice = torch.randint(0, len(values), (48, 760), generator=_generator(len(pool)))
    x = values[choice]
    some_tokens = torch.arange(48) % 16 != 5
    cases: list[tuple[dict[str, Any], torch.Tensor]] = [
        ({}, torch.ones(48, dtype=torch.bool)),
        ({"fraction": 0.37, "p1": 61.7}, some_tokens),
        ({"c": 2.0, "percentile_of": "magnitude"}, some_tokens),
    ]
    for chosen, mask in cases:
        arm = ARM(**chosen)
        _assert_plan(arm.plan(x, mask), x, mask.numpy(), **chosen)
        selected = _assert_moved(x, arm(x[None], mask[None])[0], mask.numpy(), **chosen)
        np.testing.assert_array_equal(arm.selected(x, mask), selected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [8, 80])
def test_a_magnitude_equal_to_eps_is_not_near_zero(dtype: torch.dtype, tokens: int) -> None:
    """Magnitudes 1, 2, 3 give m = 2 and MAD = 1; c is chosen so that eps is a value of x."""
    c = next(
        c
        for c in (0.25 / 1.4826, math.nextafter(0.25 / 1.4826, 1), math.nextafter(0.25 / 1.4826, 0))
        if 1.4826 * 1.0 * c == 0.25
    )
    x = torch.tensor([1.0, -2.0, 3.0, 2.0, -3.0, 1.0, 2.0, 2.0, 3.0, 0.25], dtype=dtype)
    x = x.repeat(tokens, 60)
    plan = ARM(c=c).plan(x)
    assert plan is not None
    assert (plan.eps, plan.near, plan.k) == (0.25, 0.0, round(0.02 * x.numel()))
    wider = ARM(c=math.nextafter(c, 1) * (1 + 1e-15)).plan(x)
    assert wider is not None
    assert (wider.near, wider.k) == (0.1, round(0.1 * x.numel()))


def test_float64_is_compared_as_float64() -> None:
    steps = torch.randperm(3000, generator=_generator(17)).to(torch.float64)
    x = (1 + steps * 2.0**-40).reshape(30, 100)  # all of them are one float32 value
    _assert_plan(ARM().plan(x), x)
    np.testing.assert_array_equal(
        ARM(fraction=0.1).selected(x), np.flatnonzero(steps.numpy() < 300)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_has_the_smallest_spread(dtype: torch.dtype) -> None:
    x = torch.full((5, 8), -0.5, dtype=dtype)
    plan = ARM().plan(x)
    assert plan is not None
    assert (plan.center, plan.near) == (0.5, 0.0)
    assert plan.mad in {0.0, 1e-12}
    assert plan.eps == pytest.approx(1.4826e-12 * 0.13, rel=1e-12, abs=0.0)
    assert (plan.fraction, plan.k, plan.upper, plan.lower) == (0.02, 1, 0.0, -0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_zeros_stay_zeros(dtype: torch.dtype) -> None:
    x = torch.zeros(6, 10, dtype=dtype)
    x[::2] = -0.0
    plan = ARM().plan(x)
    assert plan is not None
    assert (plan.n, plan.near, plan.fraction, plan.k) == (60, 1.0, 0.25, 15)
    assert (plan.upper, plan.lower) == (0.0, 0.0)
    assert bool((ARM()(x) == 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_zeros_count_as_positive(dtype: torch.dtype) -> None:
    x = torch.full((4, 100), 2.0, dtype=dtype)
    x[0], x[1, :50] = -0.0, 0.0
    x[2] = -2.0
    moved = ARM(fraction=150 / 400, p1=100.0)(x).to(torch.float64)
    landed = torch.cat([moved[0], moved[1, :50]])
    assert bool((landed >= 0).all())
    assert float(landed.mean()) == pytest.approx(1.0, abs=0.25)
    only_zeros = torch.tensor([[-0.0, 1.0, 2.0]], dtype=dtype)
    plan = ARM().plan(only_zeros)
    assert plan is not None
    assert plan.lower == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_upper_bound_below_zero_is_zero(dtype: torch.dtype) -> None:
    x = -_activations(20, 50, seed=18, dtype=dtype).abs() - 0.5
    x[0, :10] = 0.125
    plan = ARM(p1=50.0).plan(x)
    assert plan is not None
    assert plan.upper == 0.0
    assert bool((ARM(p1=50.0)(x)[0, :10] == 0).all())
    _assert_moved(x, ARM(p1=50.0)(x), p1=50.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_non_finite_values_take_no_part(dtype: torch.dtype) -> None:
    x = _activations(16, 128, seed=19, dtype=dtype)
    x[0, :40] = math.nan
    x[3, 5], x[4, 6], x[15, 127] = math.inf, -math.inf, math.nan
    kept = x[torch.isfinite(x)]
    assert ARM().plan(x) == ARM().plan(kept.reshape(-1, 1))
    selected = _assert_moved(x, ARM()(x))
    np.testing.assert_array_equal(ARM().selected(x), selected)
    assert selected.min() >= 40


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("passes", [1, 2])
def test_a_sequence_without_finite_values_comes_back(dtype: torch.dtype, passes: int) -> None:
    x = _activations(3, 4, 16, seed=20, dtype=dtype)
    x[1] = math.nan
    x[1, 2, 3], x[1, 0, 0] = math.inf, -math.inf
    arm = ARM(passes=passes)
    out = arm(x)
    assert _identical(out[1], x[1])
    assert not _identical(out[0], x[0])
    assert not _identical(out[2], x[2])
    assert arm.plan(x[1]) is None
    assert arm.selected(x[1]).size == 0
    assert _identical(arm(x[1]), x[1])


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8), (1, 3, 0), (0, 8)])
def test_nothing_comes_back_as_nothing(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    assert ARM()(x).shape == shape
    assert ARM().plan(x) is None


# --- batches, padding, threads, memory -------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["replace", "add"])
def test_a_batch_is_its_sequences(dtype: torch.dtype, mode: Any) -> None:
    x = _activations(5, 13, 200, seed=21, dtype=dtype)
    arm = ARM(mode=mode, passes=2, seed=9)
    out = arm(x)
    for row in range(5):
        alone = arm(x[row : row + 1], documents=torch.tensor([row]))
        assert _identical(out[row], alone[0])
    assert _identical(out[0], arm(x[0]))  # (tokens, channels) is document 0
    assert not _identical(out[1], arm(x[1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_pass_of_every_row_follows_the_reference(dtype: torch.dtype) -> None:
    x = _activations(4, 17, 96, seed=22, dtype=dtype)
    x[1] *= 100
    x[2] = x[2].abs()
    mask = torch.rand(4, 17, generator=_generator(23)) < 0.7
    out = ARM()(x, mask)
    for row in range(4):
        _assert_moved(x[row], out[row], mask[row].numpy())


PADDING = {
    "right": [1, 1, 1, 1, 1, 0, 0, 0],
    "left": [0, 0, 0, 1, 1, 1, 1, 1],
    "middle": [1, 1, 0, 0, 1, 1, 0, 1],
    "none": [1, 1, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int32])
def test_padding_is_left_out(dtype: torch.dtype, kind: torch.dtype) -> None:
    masks = torch.tensor(list(PADDING.values()))
    x = _activations(4, 8, 120, seed=24, dtype=dtype)
    x[~masks.bool()] = 1e4  # would be felt in every plan
    arm = ARM(passes=2, seed=1)
    out = arm(x, masks.to(kind))
    for row, pattern in enumerate(masks.bool()):
        tight = x[row, pattern]
        alone = arm(tight[None], documents=torch.tensor([row]))
        assert _identical(out[row, pattern], alone[0])
        assert _identical(out[row, ~pattern], x[row, ~pattern])


def test_what_padding_holds_is_kept_and_not_seen() -> None:
    x = _activations(2, 6, 50, seed=25)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    zeros, spoiled = x.clone(), x.clone()
    zeros[~mask], spoiled[~mask] = 0.0, math.nan
    assert _identical(ARM()(zeros, mask)[mask], ARM()(spoiled, mask)[mask])
    assert bool(torch.isnan(ARM()(spoiled, mask)[~mask]).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_padding_comes_back(dtype: torch.dtype) -> None:
    x = _activations(3, 5, 40, seed=26, dtype=dtype)
    mask = torch.tensor([[1] * 5, [0] * 5, [1] * 5], dtype=torch.bool)
    out = ARM()(x, mask)
    assert _identical(out[1], x[1])
    assert _identical(out[[0, 2]], ARM()(x)[[0, 2]])
    assert ARM().plan(x[1], mask[1]) is None
    assert ARM().selected(x[1], mask[1]).size == 0
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    assert _identical(ARM()(x, nothing), x)


def test_selected_indices_count_the_padding() -> None:
    x = _activations(6, 10, seed=27)
    mask = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.bool)
    selected = ARM(fraction=0.5).selected(x, mask)
    np.testing.assert_array_equal(selected, reference_selection(x, 15, mask.numpy()))
    assert set((selected // 10).tolist()) <= {1, 2, 4}


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    before = numba.get_num_threads(), torch.get_num_threads()
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 400, 700), (6, 50, 300)])
def test_threads_do_not_matter(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = _activations(*shape, seed=28, dtype=dtype)
    x[0, :, ::3] = 0.125  # the ties end somewhere in the middle
    mask = torch.rand(shape[:2], generator=_generator(29)) < 0.8
    arm = ARM(seed=6, fraction=0.2)
    outputs, selections = [], []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        outputs.append(arm(x, mask))
        selections.append(arm.selected(x[0], mask[0]))
    for output, selection in zip(outputs, selections, strict=True):
        assert _identical(output, outputs[0])
        np.testing.assert_array_equal(selection, selections[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chosen", [{}, {"mode": "add"}, {"passes": 3}, {"fraction": 0.6}], ids=str)
def test_in_place_equals_out_of_place(dtype: torch.dtype, chosen: dict[str, Any]) -> None:
    x = _activations(3, 21, 64, seed=30, dtype=dtype)
    x[0, 0, 0] = math.nan
    mask = torch.rand(3, 21, generator=_generator(31)) < 0.8
    before = x.clone()
    arm = ARM(**chosen)
    fresh = arm(x, mask)
    assert _identical(x, before)
    assert fresh.data_ptr() != x.data_ptr()
    other = torch.full_like(x, 7.0)
    assert arm(x, mask, other).data_ptr() == other.data_ptr()
    assert _identical(other, fresh)
    assert _identical(x, before)
    assert arm(x, mask, out=x).data_ptr() == x.data_ptr()
    assert _identical(x, fresh)


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_matter(dtype: torch.dtype) -> None:
    x = _activations(4, 10, 60, seed=32, dtype=dtype)
    expected = ARM()(x)
    wide = torch.zeros(4, 10, 120, dtype=dtype)
    wide[:, :, ::2] = x
    channels_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    batch_last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for strided in (wide[:, :, ::2], channels_first, batch_last):
        assert not strided.is_contiguous()
        assert _identical(ARM()(strided), expected)
        np.testing.assert_array_equal(ARM().selected(strided[1]), ARM().selected(x[1]))
        assert ARM()(strided, out=strided).data_ptr() == strided.data_ptr()
        assert _identical(strided.contiguous(), expected)
    assert bool((wide[:, :, 1::2] == 0).all())
    shared = x[:1].expand(3, 10, 60)
    assert _identical(ARM()(shared), ARM()(shared.contiguous()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "chosen",
    [{}, {"mode": "add"}, {"passes": 2}, {"fraction": 0.5, "percentile_of": "magnitude"}],
    ids=str,
)
def test_the_torch_path_is_the_numba_path(dtype: torch.dtype, chosen: dict[str, Any]) -> None:
    x = _activations(4, 19, 130, seed=33, dtype=dtype)
    x[0, :3] = math.nan
    x[1, 4, 5], x[1, 5, 6] = math.inf, -math.inf
    x[2] = torch.randint(-3, 4, (19, 130), generator=_generator(34)).to(dtype) / 4
    x[3] = math.nan
    mask = torch.rand(4, 19, generator=_generator(35)) < 0.8
    documents, layer = torch.tensor([3, 1, 70_000, 4]), 7
    arm = ARM(**chosen, seed=12)
    by_numba = arm(x, mask, layer=layer, documents=documents)
    plans = [arm.plan(x[row], mask[row]) for row in range(4)]
    selections = [arm.selected(x[row], mask[row]) for row in range(4)]
    with kernels.force_torch():
        by_torch = arm(x, mask, layer=layer, documents=documents)
        in_place = x.clone()
        arm(in_place, mask, out=in_place, layer=layer, documents=documents)
        assert [arm.plan(x[row], mask[row]) for row in range(4)] == plans
        for row in range(4):
            np.testing.assert_array_equal(arm.selected(x[row], mask[row]), selections[row])
    assert _identical(by_torch, by_numba)
    assert _identical(in_place, by_numba)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_torch_path_follows_the_reference(dtype: torch.dtype) -> None:
    x = torch.cat(
        [
            _activations(12, 100, seed=36, dtype=dtype),
            torch.randint(-9, 10, (12, 100), generator=_generator(37)).to(dtype) / 32,
        ]
    )
    with kernels.force_torch():
        for chosen in SETTINGS:
            arm = ARM(**chosen)
            _assert_plan(arm.plan(x), x, **chosen)
            selected = _assert_moved(x, arm(x), **chosen)
            np.testing.assert_array_equal(arm.selected(x), selected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", ["halves", "one cell", "spoiled"])
def test_the_torch_path_on_large_sequences(dtype: torch.dtype, pool: str) -> None:
    values = torch.tensor(POOLS[pool], dtype=torch.float64).to(dtype)
    choice = torch.randint(0, len(values), (1, 60, 800), generator=_generator(46))
    x = torch.cat([values[choice], _activations(1, 60, 800, seed=47, dtype=dtype)])
    cases: list[dict[str, Any]] = [{}, {"fraction": 0.37, "p1": 61.7, "mode": "add"}]
    for chosen in cases:
        arm = ARM(**chosen, seed=3)
        by_numba, plans = arm(x), [arm.plan(row) for row in x]
        with kernels.force_torch():
            assert _identical(arm(x), by_numba)
            assert [arm.plan(row) for row in x] == plans


# --- modes and passes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_adds_the_amount_that_replace_puts(dtype: torch.dtype) -> None:
    x = _activations(2, 30, 100, seed=38, dtype=dtype)
    amount = ARM(seed=2)(x).to(torch.float64)
    added = ARM(seed=2, mode="add")(x)
    assert added.dtype == dtype
    exact = x.to(torch.float64) + amount
    for row in range(2):
        selected = torch.from_numpy(ARM().selected(x[row]))
        if dtype is torch.float32:
            expected = x[row].reshape(-1)[selected] + ARM(seed=2)(x)[row].reshape(-1)[selected]
            assert _identical(added[row].reshape(-1)[selected], expected)
        digits = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}.get(dtype, 2.0**-22)
        found = added[row].to(torch.float64).reshape(-1)[selected]
        wanted = exact[row].reshape(-1)[selected]
        slack = digits * (wanted.abs() + amount[row].reshape(-1)[selected].abs()) + 1e-6
        assert bool(((found - wanted).abs() <= slack).all())
        others = np.setdiff1d(np.arange(3000), selected.numpy())
        assert _identical(
            added[row].reshape(-1)[torch.from_numpy(others)],
            x[row].reshape(-1)[torch.from_numpy(others)],
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_pass_works_on_the_result_of_the_first(dtype: torch.dtype) -> None:
    x = _activations(1, 40, 300, seed=39, dtype=dtype)
    chosen: dict[str, Any] = {"c": 0.3, "p1": 90.0}
    once = ARM(**chosen, seed=3)(x)
    twice = ARM(**chosen, passes=2, seed=3)(x)
    second = _assert_moved(once[0], twice[0], **chosen)
    changed = np.flatnonzero((twice != once).reshape(-1).numpy())
    assert changed.size > 0.95 * second.size
    thrice = ARM(**chosen, passes=3, seed=3)(x)
    _assert_moved(twice[0], thrice[0], **chosen)
    np.testing.assert_array_equal(
        ARM(**chosen, passes=2).selected(x[0]), ARM(**chosen).selected(x[0])
    )
    assert ARM(**chosen, passes=2).plan(x[0]) == ARM(**chosen).plan(x[0])


def test_passes_draw_anew() -> None:
    x = _unit_positive(1, 60, 200)
    first = ARM(fraction=1.0, p1=100.0)(x)
    second = ARM(fraction=1.0, p1=100.0, passes=2)(x) / first.max()
    assert _correlation(first, second) < 5 / math.sqrt(x.numel())


def test_the_direct_fraction_leaves_eps_and_near_as_measured() -> None:
    x = _activations(20, 80, seed=40)
    given, free = ARM(fraction=0.5).plan(x), ARM().plan(x)
    assert given is not None
    assert free is not None
    assert free.fraction != 0.5
    assert (given.eps, given.near) == (free.eps, free.near)
    assert (given.fraction, given.k) == (0.5, 800)


# --- the random numbers ----------------------------------------------------------------------


def _unit_positive(*shape: int, seed: int = 41) -> torch.Tensor:
    """Positive float32 whose largest value is 1 in every token.

    With fraction 1 and p1 100 the upper bound is 1, so what comes out is u itself.
    """
    x = torch.rand(*shape, generator=_generator(seed)) * 0.9 + 0.05
    x[..., 0] = 1.0
    return x


def _u(*shape: int, seed: int = 0, layer: int = 0, **keys: Any) -> torch.Tensor:
    return ARM(fraction=1.0, p1=100.0, seed=seed)(_unit_positive(*shape), layer=layer, **keys)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    pair = np.stack([as_float64(a), as_float64(b)])
    return abs(float(np.corrcoef(pair)[0, 1]))


def _assert_independent(a: torch.Tensor, b: torch.Tensor) -> None:
    n = a.numel()
    assert _correlation(a, b) < 5 / math.sqrt(n)
    same = int((a == b).sum())
    assert same < 10 + n / 2**15
    cells = (a.reshape(-1) * 16).long() * 16 + (b.reshape(-1) * 16).long()
    counts = np.bincount(cells.numpy(), minlength=256)
    assert scipy_stats.chisquare(counts).pvalue > 1e-5


def test_u_is_uniform_on_zero_to_one() -> None:
    u = _u(1, 1000, 1000)
    assert float(u.min()) >= 0.0
    assert float(u.max()) < 1.0
    values = as_float64(u)
    assert scipy_stats.kstest(values, "uniform").pvalue > 1e-3
    assert values.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * values.size))
    assert values.var() == pytest.approx(1 / 12, abs=5 / math.sqrt(180 * values.size))
    fine = np.bincount((values * 4096).astype(np.int64), minlength=4096)
    assert scipy_stats.chisquare(fine).pvalue > 1e-3


def test_every_leading_bit_of_u_is_fair() -> None:
    values = (as_float64(_u(1, 700, 1000)) * 2**20).astype(np.int64)
    for bit in range(20):
        share = float(((values >> bit) & 1).mean())
        assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(values.size)), bit


def test_u_is_uniform_on_either_side_of_a_real_distribution() -> None:
    x = _activations(1, 600, 1000, seed=42)
    arm = ARM(fraction=1.0, p1=99.5, seed=8)
    plan = reference_plan(x, fraction=1.0, p1=99.5)
    assert plan is not None
    moved = as_float64(arm(x))
    positive = as_float64(x) >= 0
    for side, bound in ((positive, plan.upper), (~positive, plan.lower)):
        u = moved[side] / float(np.float32(bound))
        assert u.min() >= 0
        assert u.max() <= 1
        assert scipy_stats.kstest(u, "uniform").pvalue > 1e-3


def test_the_sides_of_one_sequence_share_no_numbers_with_the_next_token() -> None:
    u = _u(1, 400, 500)[0]
    _assert_independent(u[:-1], u[1:])
    _assert_independent(u[:, :-1], u[:, 1:])


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256])
def test_tokens_and_channels_are_independent_at_any_distance(lag: int) -> None:
    u = _u(1, 512, 512)[0]
    _assert_independent(u[:-lag], u[lag:])
    _assert_independent(u[:, :-lag], u[:, lag:])
    _assert_independent(u[:-lag, :-lag], u[lag:, lag:])
    _assert_independent(u[:-lag, lag:], u[lag:, :-lag])


def test_no_row_and_no_column_repeats() -> None:
    u = _u(8, 300, 96, documents=torch.arange(8))
    rows = u.reshape(-1, 96).numpy()
    assert np.unique(rows, axis=0).shape == rows.shape
    columns = u.permute(2, 0, 1).reshape(96, -1).numpy()
    assert np.unique(columns, axis=0).shape == columns.shape
    assert np.unique(rows).size > 0.98 * rows.size


def test_rows_are_uncorrelated_in_bulk() -> None:
    u = _u(4, 100, 1000, documents=torch.arange(4)).reshape(400, 1000).numpy()
    between = np.corrcoef(u) - np.eye(400)
    assert float(np.abs(between).max()) < 6 / math.sqrt(1000)
    pairs = 400 * 399
    assert float((between**2).sum()) / pairs == pytest.approx(1 / 999, rel=0.05)


STREAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "seed 2^16": {"seed": 2**16},
    "seed 2^31": {"seed": 2**31 - 1},
    "layer 1": {"layer": 1},
    "layer 2": {"layer": 2},
    "layer 47": {"layer": 47},
    "document 1": {"documents": torch.tensor([1])},
    "document 2": {"documents": torch.tensor([2])},
    "document 47": {"documents": torch.tensor([47])},
    "document 2^16": {"documents": torch.tensor([2**16])},
    "document 2^30": {"documents": torch.tensor([2**30])},
    "seed 1, layer 1": {"seed": 1, "layer": 1},
    "layer 1, document 1": {"layer": 1, "documents": torch.tensor([1])},
    "later tokens": {"tokens": torch.arange(1000, 1200)[None]},
    "tokens from 2^16": {"tokens": torch.arange(2**16, 2**16 + 200)[None]},
}


@pytest.fixture(scope="module")
def streams() -> dict[str, torch.Tensor]:
    return {name: _u(1, 200, 200, **keys) for name, keys in STREAMS.items()}


@pytest.mark.parametrize("pair", list(itertools.combinations(STREAMS, 2)), ids=" ~ ".join)
def test_streams_are_independent(streams: dict[str, torch.Tensor], pair: tuple[str, str]) -> None:
    a, b = (streams[name] for name in pair)
    _assert_independent(a, b)
    # a stream that is another one shifted by a token or a channel would pass the test above
    _assert_independent(a[:, :-1], b[:, 1:])
    _assert_independent(a[:, :, :-1], b[:, :, 1:])


def test_the_same_keys_give_the_same_numbers() -> None:
    for keys in STREAMS.values():
        assert _identical(_u(1, 200, 30, **keys), _u(1, 200, 30, **keys))
    # of a longer and wider sequence the numbers of the first tokens and channels are the same
    assert _identical(_u(1, 20, 30), _u(1, 50, 90)[:, :20, :30])
    # and they depend on the values in no way
    arm = ARM(fraction=1.0, p1=100.0)
    assert _identical(arm(_unit_positive(1, 20, 30, seed=50)), _u(1, 20, 30))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_document_is_the_same_wherever_its_row_is(dtype: torch.dtype) -> None:
    x = _activations(3, 9, 70, seed=43, dtype=dtype)
    arm = ARM(passes=2, seed=5)
    documents = torch.tensor([5, 17, 400])
    out = arm(x, documents=documents)
    order = torch.tensor([2, 0, 1])
    assert _identical(arm(x[order], documents=documents[order]), out[order])
    pair = torch.tensor([1, 2])
    assert _identical(arm(x[pair], documents=documents[pair]), out[pair])
    assert _identical(arm(x, documents=torch.arange(3)), arm(x))
    assert not _identical(out, arm(x))


def test_tokens_default_to_the_place_among_unpadded_tokens() -> None:
    x = _activations(2, 6, 50, seed=44)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    tokens = torch.tensor([[0, 1, 9, 2, 9, 3], [7, 7, 0, 1, 2, 3]])
    assert _identical(ARM()(x, mask, tokens=tokens), ARM()(x, mask))
    assert not _identical(ARM()(x, mask, tokens=tokens + 1), ARM()(x, mask))


def test_the_same_document_and_token_give_the_same_numbers() -> None:
    tokens = torch.tensor([[10, 11, 12], [12, 10, 11]])
    u = _u(2, 3, 40, documents=torch.tensor([6, 6]), tokens=tokens)
    assert _identical(u[0, 0], u[1, 1])
    assert _identical(u[0, 1], u[1, 2])
    assert _identical(u[0, 2], u[1, 0])


def test_decoding_goes_on_where_the_prefill_would() -> None:
    whole = _u(2, 12, 64, documents=torch.tensor([3, 8]))
    x = _unit_positive(2, 12, 64)
    arm = ARM(fraction=1.0, p1=100.0)
    documents = torch.tensor([3, 8])
    for t in range(12):
        tokens = torch.tensor([[t], [t]])
        step = arm(x[:, t : t + 1], documents=documents, tokens=tokens)
        assert _identical(step[:, 0], whole[:, t])
    first = arm(x[:, 5:6], documents=documents)
    assert _identical(first[:, 0], whole[:, 0])


def test_a_decoding_step_with_rows_at_different_places() -> None:
    x = _unit_positive(2, 12, 64)
    whole = _u(2, 12, 64, documents=torch.tensor([0, 1]))
    ragged = ARM(fraction=1.0, p1=100.0)(
        x[:, :1], torch.ones(2, 1, dtype=torch.bool), tokens=torch.tensor([[4], [11]])
    )
    assert _identical(ragged[0, 0], whole[0, 4])
    assert _identical(ragged[1, 0], whole[1, 11])


@pytest.mark.parametrize("dtype", DTYPES)
def test_u_is_the_same_in_every_type(dtype: torch.dtype) -> None:
    """u times the bound is float32, rounded to the type once; a bound of 1 shows u."""
    x = _unit_positive(1, 30, 70).to(dtype)
    x[..., 0] = 1.0
    assert _identical(ARM(fraction=1.0, p1=100.0)(x), _u(1, 30, 70).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_is_rounded_once(dtype: torch.dtype) -> None:
    x = _activations(1, 30, 70, seed=45).abs().to(dtype)
    out = ARM(fraction=1.0, p1=99.5)(x)
    plan = reference_plan(x, fraction=1.0, p1=99.5)
    assert plan is not None
    expected = (_u(1, 30, 70) * torch.tensor(plan.upper, dtype=torch.float32)).to(dtype)
    assert _identical(out, expected)


def test_many_sequences_of_several_passes_are_those_alone() -> None:
    """Sequences are on threads; each marks only its own values as moved."""
    torch.manual_seed(6)
    x = torch.nn.functional.silu(torch.randn(24, 5, 40))
    arm = ARM(passes=3, fraction=0.2)
    whole, plans, moved = arm.trace(x, documents=np.zeros(24))
    assert moved is not None
    for index in range(len(x)):
        own, own_plans, own_moved = arm.trace(x[index : index + 1], documents=np.zeros(1))
        assert torch.equal(own[0], whole[index])
        assert own_plans[0] == plans[index]
        assert own_moved is not None
        assert torch.equal(own_moved[0], moved[index])
