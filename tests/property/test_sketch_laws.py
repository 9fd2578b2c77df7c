"""The laws of a sketch: it counts exactly, and merging is concatenating."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from distviz.errors import DistvizError
from distviz.stats import kernels
from distviz.stats.sketch import Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

bounded = settings(max_examples=40, deadline=None, derandomize=True, database=None)

GRID_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GRID_OF = {torch.float16: "fp16"}
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
AWKWARD = [
    0.0,
    -0.0,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e-45,  # the smallest fp32 denormal: rounds to a zero cell of bf16, and is no zero
    -1e-45,
    9.2e-41,  # about the smallest bf16 denormal
    6e-8,  # about the smallest fp16 denormal
    3.4028234663852886e38,  # the largest fp32 value: rounds to infinity in bf16
    -3.4028234663852886e38,
    3.3895313892515355e38,  # the largest bf16 value
    65504.0,
    65519.0,
    65520.0,
    1.00390625,  # halfway between two bf16 cells, the lower one even
    1.01171875,  # halfway between two bf16 cells, the upper one even
]


def _codes(x: torch.Tensor, grid: str) -> NDArray[np.uint16]:
    """The grid code of every finite value, by torch's own rounding to nearest even."""
    flat = x.reshape(-1)
    kept = flat[torch.isfinite(flat)]
    target = GRID_TYPES[grid]
    largest = torch.finfo(target).max
    rounded = kept.to(torch.float32).to(target)
    spilled = torch.isinf(rounded)
    rounded[spilled] = (torch.sign(kept[spilled].to(torch.float64)) * largest).to(target)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def _table(x: torch.Tensor, grid: str) -> NDArray[np.int64]:
    return np.bincount(_codes(x, grid).astype(np.int64), minlength=65536).astype(np.int64)


def _from_bits(bits: list[int], dtype: torch.dtype) -> torch.Tensor:
    kind: Any = {torch.float32: np.uint32, torch.float64: np.uint64}.get(dtype, np.uint16)
    signed: Any = {torch.float32: np.int32, torch.float64: np.int64}.get(dtype, np.int16)
    return torch.from_numpy(np.array(bits, dtype=kind).view(signed)).view(dtype)


@some.composite
def tensors(draw: some.DrawFn, dtype: torch.dtype, max_size: int = 40) -> torch.Tensor:
    """Any bit patterns of the type, small everyday values, and the awkward ones."""
    if dtype is torch.float64:  # any fp32 value: rounding twice is then rounding once
        return draw(tensors(torch.float32, max_size)).to(torch.float64)
    width = 32 if dtype is torch.float32 else 16
    patterns = draw(some.lists(some.integers(0, 2**width - 1), max_size=max_size))
    everyday = draw(some.lists(some.sampled_from([*AWKWARD, 0.5, -0.5, 2.0]), max_size=max_size))
    return torch.cat([_from_bits(patterns, dtype), torch.tensor(everyday).to(dtype)])


any_dtype = some.sampled_from(DTYPES)
any_tensor = any_dtype.flatmap(tensors)


def _same_float(a: float, b: float) -> bool:
    return a == b or (bool(np.isnan(a)) and bool(np.isnan(b)))


def _exact_facts(x: torch.Tensor) -> dict[str, float]:
    values = x.reshape(-1).to(torch.float64).numpy()
    finite = values[np.isfinite(values)]
    return {
        "count": finite.size,
        "nan": int(np.isnan(values).sum()),
        "inf": int(np.isinf(values).sum()),
        "zeros": int((finite == 0).sum()),
        "min": float(finite.min()) if finite.size else float("nan"),
        "max": float(finite.max()) if finite.size else float("nan"),
    }


def _assert_counts_exactly(sketch: Sketch, x: torch.Tensor, grid: str) -> None:
    assert sketch.grid == grid or (x.numel() == 0 and sketch.grid is None)
    assert sketch.table.dtype == np.int64
    assert sketch.table.shape == (65536,)
    np.testing.assert_array_equal(sketch.table, _table(x, grid))
    for name, expected in _exact_facts(x).items():
        found = getattr(sketch, name)
        assert _same_float(float(found), float(expected)), (name, found, expected)
    assert int(sketch.table.sum()) == sketch.count


@bounded
@given(any_tensor)
def test_one_add_counts_every_value_once(x: torch.Tensor) -> None:
    _assert_counts_exactly(Sketch().add(x), x, GRID_OF.get(x.dtype, "bf16"))


@bounded
@given(any_tensor)
def test_a_named_grid_is_the_one_the_data_would_choose(x: torch.Tensor) -> None:
    grid = GRID_OF.get(x.dtype, "bf16")
    _assert_counts_exactly(Sketch(grid).add(x), x, grid)
    assert Sketch(grid).add(x) == Sketch(grid) + Sketch(grid).add(x)


@bounded
@given(some.sampled_from(DTYPES[1:]).flatmap(tensors))
def test_numpy_and_torch_count_alike(x: torch.Tensor) -> None:
    assert Sketch().add(x.numpy()) == Sketch().add(x)


@pytest.mark.parametrize("grid", ["bf16", "fp16"])
def test_every_code_has_its_own_cell(grid: str) -> None:
    codes = np.arange(65536, dtype=np.uint16)
    x = torch.from_numpy(codes.view(np.int16)).view(GRID_TYPES[grid])
    sketch = Sketch(grid).add(x)
    finite = torch.isfinite(x).numpy()
    np.testing.assert_array_equal(sketch.table, finite.astype(np.int64))
    assert sketch.inf == 2
    assert sketch.nan == int(torch.isnan(x).sum())
    assert sketch.zeros == 2
    assert sketch.count == int(finite.sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 31, 4097, 300_001])
def test_large_and_odd_lengths(dtype: torch.dtype, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator)
    x = (x * torch.exp(4 * torch.randn(n, generator=generator))).to(dtype)
    if n > 100:
        x[7] = float("nan")
        x[11], x[13] = float("inf"), float("-inf")
        x[17], x[19] = 0.0, -0.0
    _assert_counts_exactly(Sketch().add(x), x, GRID_OF.get(dtype, "bf16"))


def test_float64_beyond_float32() -> None:
    x = torch.tensor([1e300, -1e300, 1e-300, -1e-300, 0.0], dtype=torch.float64)
    sketch = Sketch().add(x)
    assert (sketch.count, sketch.inf, sketch.nan, sketch.zeros) == (5, 0, 0, 1)
    assert (sketch.min, sketch.max) == (-1e300, 1e300)
    filled = {int(code): int(sketch.table[code]) for code in np.flatnonzero(sketch.table)}
    assert filled == {0x7F7F: 1, 0xFF7F: 1, 0x0000: 2, 0x8000: 1}


def test_more_zeros_than_float32_can_count() -> None:
    x = torch.zeros(2049, 8191, dtype=torch.bfloat16)  # a batch of four windows
    n = x.numel()
    assert n > 2**24
    with kernels.force_torch():
        sketch = Sketch().add(x)
    assert (sketch.count, sketch.zeros, int(sketch.table[0])) == (n, n, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_torch_path_counts_alike(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(8)
    x = (torch.randn(40, 300, generator=generator) * 3).to(dtype)
    x[0, :9] = torch.tensor(AWKWARD[:9]).to(dtype)
    x[3, :8] = torch.tensor(AWKWARD[9:]).to(dtype)
    mask = torch.rand(40, generator=generator) < 0.7
    mask[[0, 3]] = True
    by_numba = Sketch().add(x, mask=mask)
    with kernels.force_torch():
        assert Sketch().add(x, mask=mask) == by_numba
    _assert_counts_exactly(by_numba, x[mask], GRID_OF.get(dtype, "bf16"))


def test_a_finite_value_stays_in_the_last_finite_cell() -> None:
    largest = torch.tensor([3.4028234663852886e38, -3.4028234663852886e38])
    sketch = Sketch().add(largest)
    assert (sketch.inf, sketch.table[0x7F7F], sketch.table[0xFF7F]) == (0, 1, 1)


def test_zeros_are_counted_before_rounding() -> None:
    sketch = Sketch().add(torch.tensor([1e-45, -1e-45, 0.0, -0.0, -0.0]))
    assert sketch.zeros == 3
    assert (sketch.table[0x0000], sketch.table[0x8000]) == (2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_are_not_flushed(dtype: torch.dtype) -> None:
    tiny = 6e-8 if dtype is torch.float16 else 9.2e-41
    x = torch.tensor([tiny, -tiny, 3 * tiny], dtype=torch.float64).to(dtype)
    sketch = Sketch().add(x)
    assert sketch.zeros == 0
    filled = {int(code) for code in np.flatnonzero(sketch.table)}
    assert filled == {0x0001, 0x8001, 0x0003}
    assert sketch.min < 0 < sketch.max


@bounded
@given(any_dtype.flatmap(lambda d: some.lists(tensors(d, 15), min_size=1, max_size=5)), some.data())
def test_merging_is_concatenating_in_any_order(
    chunks: list[torch.Tensor], data: some.DataObject
) -> None:
    order = data.draw(some.permutations(range(len(chunks))))
    whole = Sketch().add(torch.cat(chunks))
    merged = reduce(lambda a, b: a + b, (Sketch().add(chunks[i]) for i in order))
    one_by_one = Sketch()
    for i in order:
        one_by_one.add(chunks[i])
    assert merged == whole
    assert one_by_one == whole
    for name in ("count", "nan", "inf", "zeros", "min", "max"):
        assert _same_float(getattr(merged, name), getattr(whole, name))


@bounded
@given(any_dtype.flatmap(lambda d: some.tuples(tensors(d), tensors(d), tensors(d))))
def test_merging_commutes_and_associates(
    three: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    a, b, c = (Sketch().add(x) for x in three)
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


@bounded
@given(any_tensor)
def test_an_empty_sketch_is_the_identity(x: torch.Tensor) -> None:
    sketch = Sketch().add(x)
    for merged in (sketch + Sketch(), Sketch() + sketch):
        assert merged == sketch
        assert merged.grid == sketch.grid
        assert merged.count == sketch.count
        _assert_counts_exactly(merged, x, GRID_OF.get(x.dtype, "bf16"))


def test_merging_leaves_its_sides_alone() -> None:
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, float("nan")])
    a, b = Sketch().add(x), Sketch().add(y)
    for merged in (a + b, a + Sketch(), Sketch() + b):
        merged.add(torch.tensor([7.0, float("inf"), 0.0]))
    assert a == Sketch().add(x)
    assert b == Sketch().add(y)
    _assert_counts_exactly(a, x, "bf16")
    _assert_counts_exactly(b, y, "bf16")


def test_add_returns_the_sketch_and_keeps_its_input() -> None:
    x = torch.tensor([1.0, -0.0, float("nan"), 1e-45, 3.4e38])
    before = x.clone()
    sketch = Sketch()
    assert sketch.add(x) is sketch
    assert torch.equal(x.view(torch.int32), before.view(torch.int32))


def test_equality_sees_every_counter() -> None:
    assert Sketch() == Sketch()
    one = Sketch().add(torch.tensor([1.0]))
    assert one == Sketch().add(torch.tensor([1.0]))
    for other in ([2.0], [1.0, 1.0], [1.0, float("nan")], [1.0, float("inf")], []):
        assert one != Sketch().add(torch.tensor(other))
    true_zero, rounded_to_zero = torch.tensor([0.0]), torch.tensor([1e-45])
    assert Sketch().add(true_zero) != Sketch().add(rounded_to_zero)


@bounded
@given(any_tensor, some.data())
def test_a_mask_is_a_filter(x: torch.Tensor, data: some.DataObject) -> None:
    kept = data.draw(some.lists(some.booleans(), min_size=x.numel(), max_size=x.numel()))
    mask = torch.tensor(kept, dtype=torch.bool)
    assert Sketch().add(x, mask) == Sketch().add(x[mask])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_mask_covers_leading_dimensions(dtype: torch.dtype, dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    x = torch.randn(5, 7, 11, generator=generator).to(dtype)
    x[0, 0, 0], x[4, 6, 10] = float("nan"), float("inf")
    mask = torch.rand(x.shape[:dims], generator=generator) < 0.6
    sketch = Sketch().add(x, mask=mask)
    _assert_counts_exactly(sketch, x[mask], GRID_OF.get(dtype, "bf16"))
    nothing = Sketch().add(x, mask=torch.zeros_like(mask))
    assert (nothing.count, nothing.nan, nothing.inf, int(nothing.table.sum())) == (0, 0, 0, 0)
    if dtype is not torch.bfloat16:
        assert Sketch().add(x.numpy(), mask=mask.numpy()) == sketch


@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_strides_do_not_matter(dtype: torch.dtype) -> None:
    x = torch.randn(6, 8, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    flat = Sketch().add(x.reshape(-1))
    assert Sketch().add(x) == flat
    assert Sketch().add(x.transpose(0, 2)) == flat
    assert Sketch().add(x[::2]).add(x[1::2]) == flat
    assert Sketch().add(x[:, :, :3]) + Sketch().add(x[:, :, 3:]) == flat
    mask = torch.rand(10, 8, generator=torch.Generator().manual_seed(2)) < 0.5
    turned = x.transpose(0, 2)
    assert Sketch().add(turned, mask=mask) == Sketch().add(turned[mask])
    broadcast = x[:1, :1].expand(3, 4, 10)
    assert Sketch().add(broadcast) == Sketch().add(broadcast.contiguous())


def test_small_shapes() -> None:
    assert Sketch().add(torch.tensor(2.5)) == Sketch().add(torch.tensor([2.5]))
    for shape in ((0,), (3, 0), (0, 4)):
        empty = Sketch().add(torch.empty(shape))
        assert (empty.count, int(empty.table.sum())) == (0, 0)
        assert np.isnan(empty.min)
        assert np.isnan(empty.max)


def test_a_tensor_that_requires_grad_is_counted() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    assert Sketch().add(x * 2) == Sketch().add(torch.tensor([2.0, -4.0]))


def test_counters_do_not_saturate() -> None:
    values = [-1.0, 2.0, 5.0, 0.0, float("nan"), float("inf")]
    sketch = Sketch().add(torch.tensor(values, dtype=torch.bfloat16))
    single = Sketch().add(torch.tensor(values, dtype=torch.bfloat16))
    for _ in range(40):
        sketch = sketch + sketch
    times = 2**40
    assert (sketch.count, sketch.nan, sketch.inf, sketch.zeros) == (4 * times, times, times, times)
    np.testing.assert_array_equal(sketch.table, single.table * times)
    assert sketch.mean() == 1.5
    assert sketch.std() == pytest.approx(single.std(), rel=1e-12)
    assert sketch.quantile([0.0, 0.2, 0.4, 0.6, 0.9, 1.0]).tolist() == [-1, -1, 0, 2, 5, 5]


def test_unlike_grids_refuse_to_merge() -> None:
    bf16 = Sketch().add(torch.ones(3, dtype=torch.bfloat16))
    fp16 = Sketch().add(torch.ones(3, dtype=torch.float16))
    assert (bf16.grid, fp16.grid) == ("bf16", "fp16")
    for a, b in ((bf16, fp16), (fp16, bf16)):
        with pytest.raises(DistvizError, match=r"(?s)bf16.*fp16|fp16.*bf16"):
            a + b
    assert bf16 != fp16


def test_data_of_another_grid_are_refused_and_leave_no_trace() -> None:
    x = torch.tensor([1.0, 2.0])
    for sketch, other in (
        (Sketch().add(x), x.to(torch.float16)),
        (Sketch("bf16").add(x), x.to(torch.float16)),
        (Sketch().add(x.to(torch.float16)), x),
        (Sketch("fp16").add(x.to(torch.float16)), x.to(torch.bfloat16)),
    ):
        before = sketch.table.copy()
        with pytest.raises(DistvizError, match=r"(?s)bf16.*fp16|fp16.*bf16"):
            sketch.add(other)
        np.testing.assert_array_equal(sketch.table, before)


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(DistvizError, match="fp8"):
        Sketch("fp8")


@bounded
@given(any_tensor)
def test_pairs_are_the_filled_cells_in_order(x: torch.Tensor) -> None:
    grid = GRID_OF.get(x.dtype, "bf16")
    sketch = Sketch().add(x)
    values, counts = sketch.pairs()
    assert values.dtype == np.float64
    assert counts.dtype == np.int64
    codes, expected = np.unique(_codes(x, grid), return_counts=True)
    cells = torch.from_numpy(codes.view(np.int16)).view(GRID_TYPES[grid]).to(torch.float64).numpy()
    order = np.lexsort((~np.signbit(cells), cells))  # by value, the negative zero first
    np.testing.assert_array_equal(values, cells[order])
    np.testing.assert_array_equal(np.signbit(values), np.signbit(cells[order]))
    np.testing.assert_array_equal(counts, expected[order])
    assert int(counts.sum()) == sketch.count


@bounded
@given(some.sampled_from(DTYPES[:2]).flatmap(tensors), some.floats(0.0, 1.0))
def test_quantiles_are_those_of_the_data(x: torch.Tensor, q: float) -> None:
    values = x.to(torch.float64).numpy()
    values = values[np.isfinite(values)]
    found = Sketch().add(x).quantile(q)
    assert np.ndim(found) == 0
    if values.size == 0:
        assert np.isnan(found)
        return
    ordered = np.sort(values)
    place = q * (values.size - 1)
    around = ordered[[int(np.floor(place)), int(np.ceil(place))]]
    tolerance = 1e-12 * float(np.abs(around).max())
    assert float(found) == pytest.approx(float(np.quantile(values, q)), rel=1e-12, abs=tolerance)


@bounded
@given(some.sampled_from(DTYPES[2:]).flatmap(tensors))
def test_order_statistics_of_wider_types_stay_close(x: torch.Tensor) -> None:
    values = x.to(torch.float64).numpy()
    ordered = np.sort(values[np.isfinite(values)])
    cells = np.repeat(*Sketch().add(x).pairs())
    assert cells.shape == ordered.shape
    normal = np.abs(ordered) >= 2.0**-126
    allowed = np.where(normal, np.abs(ordered) * 2.0**-8, 2.0**-133)
    assert np.all(np.abs(cells - ordered) <= allowed)
