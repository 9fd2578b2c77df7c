"""The redistributions beside ARM: same selection, other fate; checked against plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from support.arm_reference import as_float64, reference_plan, reference_selection
from support.brute_force import plain_arm, uniforms

from distviz.arm.arm import ARM
from distviz.arm.controls import make_redistribution
from distviz.errors import MeasurementError, RequestError
from distviz.settings import RunSettings
from distviz.stats import kernels

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PARAMETERS = [{}, {"c": 1.0, "p1": 90.0}, {"fraction": 0.4}, {"fraction": 1.0}]


def _activations(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    gate = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.3
    return torch.nn.functional.silu(gate).to(dtype)


def _selection(x: torch.Tensor, parameters: dict[str, float]) -> np.ndarray:
    chosen = np.zeros(x.numel(), bool)
    chosen[reference_selection(x, reference_plan(x, **parameters).k)] = True
    return chosen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_threshold_zeroes_what_arm_selects(dtype: torch.dtype, parameters: dict) -> None:
    x = _activations(9, 64, dtype=dtype)
    chosen = _selection(x, parameters)
    found = as_float64(make_redistribution("threshold", ARM(**parameters))(x))
    assert np.array_equal(found, np.where(chosen, 0.0, as_float64(x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "factor"), [("scale", 2.0), ("scale:-0.5", -0.5)])
def test_scale_multiplies_what_arm_selects(dtype: torch.dtype, name: str, factor: float) -> None:
    x = _activations(9, 64, dtype=dtype)
    chosen = _selection(x, {"fraction": 0.3})
    scaled = as_float64((x.float() * factor).to(dtype))
    found = as_float64(make_redistribution(name, ARM(fraction=0.3))(x))
    assert np.array_equal(found, np.where(chosen, scaled, as_float64(x)))


def test_noise_makes_the_changes_of_arm_elsewhere() -> None:
    x = _activations(40, 96)
    arm = ARM(fraction=0.2, seed=3)
    of_arm = as_float64(arm(x)) - as_float64(x)
    made, _, moved = make_redistribution("noise", arm).trace(x)
    of_noise = as_float64(made) - as_float64(x)
    places = moved.numpy().ravel().astype(bool)
    selected = np.zeros(x.numel(), bool)
    selected[arm.selected(x)] = True
    assert places.sum() == selected.sum() == round(0.2 * x.numel())
    assert not of_noise[~places].any()
    np.testing.assert_allclose(
        np.sort(of_noise[places]), np.sort(of_arm[selected]), rtol=0, atol=4e-7
    )
    # Places know nothing of the values: the selected are hit as often as any other.
    share = places[selected].mean()
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / selected.sum())
    # Nor do the changes dealt out know the order in which ARM made them.
    order = scipy_stats.spearmanr(of_noise[places], of_arm[selected])
    assert order.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize(("passes", "bits"), [(1, 24), (2, 24), (1, 3)])
def test_noise_by_its_definition(
    dtype: torch.dtype, passes: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th change goes to the finite value with the n-th hash; of few bits, many are equal."""
    original, mask = kernels.random_bits, (1 << bits) - 1
    monkeypatch.setattr(kernels, "random_bits", lambda *given: original(*given) & mask)
    x = _activations(12, 41, dtype=dtype)
    x[1, 2], x[3, 4], x[5], x[6, :2] = torch.nan, torch.inf, -0.0, 1e-41
    keys = [(0, token) for token in range(len(x))]
    of_arm, selected, _ = plain_arm(x, keys, layer=4, seed=5, passes=passes, fraction=0.3)
    wide = torch.promote_types(dtype, torch.float32)
    shifts = (of_arm.to(wide) - x.to(wide))[torch.from_numpy(selected)]
    words = np.stack([uniforms([5, 4, 1 << 32, 0, *key], x.shape[1]) for key in keys])
    words = (words.ravel() * 2**24).astype(np.int64) & mask
    order = sorted((w, place) for place, w in enumerate(words) if x.flatten()[place].isfinite())
    expected, marks = x.flatten().clone(), torch.zeros(x.numel(), dtype=torch.uint8)
    for (_, place), shift in zip(order, shifts, strict=False):
        expected[place] = (expected[place].to(wide) + shift).to(dtype)
        marks[place] = 1
    noise = make_redistribution("noise", ARM(fraction=0.3, passes=passes, seed=5))
    made, _, moved = noise.trace(x, layer=4)
    assert torch.equal(moved.flatten(), marks)
    assert marks.sum() == len(shifts)
    assert torch.equal(made.flatten().nan_to_num(7), expected.nan_to_num(7))


def test_noise_is_uniform_over_rows_channels_and_seeds() -> None:
    x = _activations(16, 32)
    hits = np.zeros(x.shape)
    for seed in range(400):
        _, _, moved = make_redistribution("noise", ARM(fraction=0.25, seed=seed)).trace(x)
        hits += moved.numpy()
    for counts in (hits.sum(0), hits.sum(1), hits.ravel()):
        assert scipy_stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", ["threshold", "scale:3", "noise"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_mask_and_out_do_not_matter(name: str, dtype: torch.dtype) -> None:
    x = _activations(3, 12, 40, seed=1, dtype=dtype)
    x[1, 4, 5], x[1, 3, 7] = torch.nan, torch.inf
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0, 9:], mask[2, :4] = False, False
    change = make_redistribution(name, ARM(fraction=0.3))
    whole = change(x, mask)
    assert torch.equal(whole[~mask], x[~mask])
    finite = torch.isfinite(x)
    assert torch.equal(whole[~finite].isnan(), x[~finite].isnan())
    for row in range(3):
        alone = change(x[row][mask[row]], documents=[row])
        assert torch.equal(alone.nan_to_num(), whole[row][mask[row]].nan_to_num())
    again = x.clone()
    change(again, mask, out=again)
    assert torch.equal(again.nan_to_num(), whole.nan_to_num())
    with kernels.force_torch():
        assert torch.equal(change(x, mask).nan_to_num(), whole.nan_to_num())


def test_passes_go_on_from_the_result() -> None:
    x = _activations(8, 64)
    twice = make_redistribution("scale:2", ARM(fraction=0.1, passes=2))(x)
    once = make_redistribution("scale:2", ARM(fraction=0.1))
    assert torch.equal(twice, once(once(x)))


def test_settings_name_it() -> None:
    assert type(RunSettings(redistribution="noise").arm()).__name__ == "Noise"
    assert type(RunSettings().arm()) is ARM


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "def clip(x):\n    x.clamp_(max=0.5)\n    return x\n"
        "def wrong(x):\n    return x[:1]\n"
        "def fails(x):\n    raise ValueError('not today')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    x = _activations(2, 6, 32)
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)
    made, _, moved = make_redistribution("mine:clip", ARM()).trace(x, mask)
    clipped = torch.where(torch.from_numpy(mask)[..., None], x.clamp(max=0.5), x)
    assert torch.equal(made, clipped)
    assert torch.equal(moved.bool(), clipped != x)
    with pytest.raises(MeasurementError, match=r"mine:wrong returned \(1, 32\) torch.float32"):
        make_redistribution("mine:wrong", ARM())(x)
    with pytest.raises(MeasurementError, match="mine:fails failed: ValueError: not today"):
        make_redistribution("mine:fails", ARM())(x)
    with pytest.raises(RequestError, match="'mine:number' is not callable"):
        make_redistribution("mine:number", ARM())
    with pytest.raises(RequestError, match="'mine:absent' cannot be imported: AttributeError"):
        make_redistribution("mine:absent", ARM())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("treshold", "unknown redistribution 'treshold'.*threshold"),
        ("scale:much", "'much' is not a number"),
        ("no_such_module:f", "'no_such_module:f' cannot be imported: ModuleNotFoundError"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        RunSettings(redistribution=name)
