"""Arguments of public functions: what is accepted, and plain errors for what is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import distviz
from distviz import arm, plots, results
from distviz.arm.controls import Custom, Scale
from distviz.errors import RequestError
from distviz.results import Comparison, Run
from distviz.stats import Sketch, binning, inference, statistics
from distviz.stats.arguments import (
    check_key,
    check_tensor,
    check_width,
    checks_types,
    described,
    is_a,
    kinds_of,
    to_array,
    to_keys,
    to_mask,
    to_tensor,
)
from distviz.stats.kernels import uniforms

SKETCH = Sketch().add(np.arange(5.0, dtype=np.float32))


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [1, np.int64(1)], [True, 1.0, "1", None, torch.tensor(1), int]),
        (float, [1, 1.5, np.float32(1), float("nan")], [True, "1", None, [1.0], 1j]),
        (bool, [True, np.bool_(False)], [1, "yes", None]),
        (str, ["a"], [b"a", Path("a"), None, str]),
        (str | Path, ["a", Path("a")], [b"a", 3]),
        (int | None, [1, None], ["a"]),
        (Literal["a", "b"], ["a"], ["c", None]),
        (Sequence[str], [["a"], ("a",), []], ["a", [1], {"a"}, 3, iter("a")]),
        (Collection[int], [[1], {1}, range(3), np.array([1])], ["1", [1.5], [True], 3]),
        (Mapping[str, int], [{}, {"a": 1}], [["a"], "a"]),
        (Callable[[int], int], [len, int], [3, None]),
        (np.ndarray[Any, Any], [np.ones(2), [1.0]], ["a", 3]),
        (Sketch, [SKETCH], [Sketch, None, np.ones(3), torch.ones(3)]),
        (torch.nn.Module, [torch.nn.Linear(1, 1)], [torch.nn.Linear, {}, "model"]),
        (Any, [None, int, "a"], []),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_types(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    assert all(is_a(value, kind) for value in right)
    assert not any(is_a(value, kind) for value in wrong)


def test_types_in_words() -> None:
    assert described(int | None) == "a whole number or None"
    assert described(Sequence[str]) == "a list (of a text each)"
    assert described(Literal["a", "b"]) == "'a' or 'b'"
    assert described(Sketch) == "a Sketch"


def test_a_function_refuses_other_types() -> None:
    @checks_types
    def half(x: float, name: str = "x", *rest: int, log: bool = False) -> float:
        """Return the half."""
        return x / 2

    assert half(3) == 1.5
    assert half.__doc__ == "Return the half."
    for args, named, message in (
        (("3",), {}, "^x is '3', expected a number$"),
        ((3, 4), {}, "^name is 4, expected a text$"),
        ((3,), {"log": 1}, "^log is 1, expected True or False$"),
        ((float,), {}, "^x is the class float, expected a number$"),
        ((torch.ones(3),), {}, "^x is a Tensor, expected a number$"),
    ):
        with pytest.raises(RequestError, match=message):
            half(*args, **named)
    with pytest.raises(TypeError, match=r"half\(\): missing a required argument: 'x'"):
        half()  # type: ignore[call-arg]


# Every public function --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(demo_run: Run) -> Comparison:
    return distviz.compare(demo_run, demo_run)


STATISTICS = (
    *("describe", "moments", "center_and_mad", "near_zero_eps", "l1", "l2", "gini"),
    "entropy_bits",
)
WRONG = (None, 3, "x", True, b"x", [1.0], {}, np.ones(3), torch.ones(3), Sketch, object())
"""What no function takes in place of a sketch, a run, a model or a folder."""


def first_arguments(run: Run, compared: Comparison) -> dict[str, Callable[[Any], Any]]:
    """Every public function by name, as a function of its first argument."""
    found: dict[str, Callable[[Any], Any]] = {
        f"statistics.{name}": getattr(statistics, name) for name in STATISTICS
    }
    for name in ("ks", "wasserstein", "js_divergence"):
        found[f"statistics.{name}"] = lambda x, name=name: getattr(statistics, name)(SKETCH, x)
    found["statistics.near_zero"] = lambda x: statistics.near_zero(x, 0.1)
    found["statistics.histogram"] = lambda x: statistics.histogram(x, np.array([0.0, 1.0]))
    found |= {"mass_ends": binning.mass_ends, "bin_edges": binning.bin_edges}
    found["infer"] = lambda x: inference.infer(x, x, paired=True)
    for kind in (Run, Comparison, results.Sweep, results.FillerStudy, results.WhatIf):
        found[f"{kind.__name__}.load"] = kind.load
    found |= {"load": results.load, "save": run.save, "sketches": compared.sketches}
    found |= {"overview": plots.overview, "comparison_overview": plots.comparison_overview}
    found |= {"token_classes": plots.token_classes, "elementwise": plots.elementwise}
    found["paired"] = lambda x: plots.paired(x, 0)
    found["compared"] = lambda x: plots.compared(x, compared.pairs[0])
    found["watch"] = lambda x: distviz.watch(x).__enter__()
    found["redistribute"] = lambda x: distviz.redistribute(x).__enter__()
    found["make_redistribution"] = lambda x: arm.make_redistribution("arm", x)
    found["uniforms"] = lambda x: uniforms(x, 3)
    found |= {"whatif": distviz.whatif, "run": distviz.run, "report": distviz.report}
    return found


def test_every_public_function_refuses_what_is_none_of_its_kind(
    demo_run: Run, compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RequestError of one or two lines, whose first names what was given."""
    monkeypatch.chdir(tmp_path)
    of_paths = ("load", "save", "whatif", "run", "report")
    for name, function in first_arguments(demo_run, compared).items():
        for value in WRONG:
            if name.endswith(of_paths) and isinstance(value, str):
                continue
            if name == "run" and value is None:
                continue
            with pytest.raises(RequestError) as caught:
                function(value)
            assert len(str(caught.value).splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_types_of_every_checked_function_are_known() -> None:
    """Names that modules import for type checkers alone are found."""
    checked = [
        *(getattr(statistics, name) for name in STATISTICS),
        *(plots.paired, plots.overview, plots.compared, plots.elementwise, plots.token_classes),
        *(Run.find, Run.select, Run.save, Comparison.sketches),
        *(inference.infer, binning.bin_edges, arm.make_redistribution, results.load),
    ]
    for function in checked:
        assert kinds_of(function.__wrapped__)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.find("0"), "^layer is '0', expected a whole number"),
        (lambda run: run.find(True), "^layer is True, expected a whole number"),
        (lambda run: run.sketch(0, None), "^site is None, expected a text"),
        (lambda run: run.select(0), "^layers is 0, expected a list"),
        (lambda run: run.select(["0"]), r"^layers is \['0'\], expected a list"),
        (lambda run: run.select(None, "act"), "^sites is 'act', expected a list"),
        (lambda run: run.edges("act"), "^key is 'act', expected a SiteKey"),
        (lambda run: run.save("x", force="yes"), "^force is 'yes', expected True or False"),
        (lambda run: run.plot.paired(layer="0"), "^layer is '0', expected a whole number"),
        (lambda run: plots.paired(run, 0, centred=1), "^centred is 1, expected True or False"),
        (lambda _: Scale(factor="2"), "^factor is '2', expected a finite number"),
        (lambda _: Scale(factor=float("nan")), "^factor is nan, expected a finite number"),
        (lambda _: Custom(function=None, name="f"), "^function is None"),
        (lambda _: arm.make_redistribution(3, arm.ARM()), "^name is 3, expected a text"),
        (lambda _: statistics.near_zero_eps(SKETCH, -1.0), "^c is -1.0, it must be"),
        (lambda _: statistics.near_zero(SKETCH, "x"), "^eps is 'x', expected a number"),
        (lambda _: statistics.histogram(SKETCH, [3, 2, 1]), "^edges do not ascend"),
        (lambda _: statistics.histogram(SKETCH, [0, float("nan")]), "^edges do not ascend"),
        (lambda _: statistics.histogram(SKETCH, [[0, 1], [1, 2]]), "^edges do not ascend"),
        (lambda _: binning.bin_edges([SKETCH], bins=0), "^bins is 0, it must be at least 1"),
        (lambda _: binning.bin_edges([SKETCH], window=(1.0, 0.0)), "^window is"),
        (lambda _: binning.ValueScale(constant=0.0), "^constant is 0.0, it must be"),
        (lambda _: SKETCH.quantile("0.5"), "^q is '0.5', expected"),
        (lambda _: SKETCH.quantile(float("nan")), "^quantiles lie between 0 and 1"),
    ],
)  # fmt: skip
def test_other_arguments(call: Callable[[Run], Any], message: str, demo_run: Run) -> None:
    with pytest.raises(RequestError, match=message):
        call(demo_run)


def test_a_band_that_is_not_known_has_no_near_zero_share() -> None:
    assert np.isnan(statistics.near_zero(SKETCH, float("nan")))


# Tensors, masks, keys ---------------------------------------------------------------------------

TENSORS: dict[str, tuple[Any, str]] = {
    "list": ([[1.0, 2.0]], r"^x is \[\[1.0, 2.0\]\], expected a torch tensor"),
    "array": (np.ones((2, 3)), "^x is a ndarray, expected a torch tensor"),
    "class": (torch.Tensor, "^x is the class Tensor, expected a torch tensor"),
    "none": (None, "^x is None, expected a torch tensor"),
    "integers": (torch.ones(2, 3, dtype=torch.int64), "^x is int64\nexpected bfloat16"),
    "booleans": (torch.ones(2, 3, dtype=torch.bool), "^x is bool"),
    "complex": (torch.ones(2, 3, dtype=torch.complex64), "^x is complex64"),
    "float8": (torch.ones(2, 3).to(torch.float8_e4m3fn), "^x is float8_e4m3fn"),
    "sparse": (torch.eye(3).to_sparse(), "^x is a sparse_coo tensor"),
    "meta": (torch.ones(2, 3, device="meta"), "^x is on the meta device"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_arm_refuses(name: str) -> None:
    value, message = TENSORS[name]
    own = arm.ARM()
    calls: tuple[Callable[[Any], Any], ...] = (own, own.plan, own.selected, own.trace)
    for call in calls:
        with pytest.raises(RequestError, match=message):
            call(value)
    with pytest.raises(RequestError, match=message):
        check_tensor(value, "x")


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 3, 4)])
def test_numbers_of_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=rf"^x has {len(shape)} dimensions?, "):
        arm.ARM()(torch.ones(shape))
    assert arm.ARM().plan(torch.ones(shape)) is not None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 5).masked_fill(torch.eye(2, 5) > 0, -torch.inf), "^mask has other values"),
        (torch.full((2, 5), float("nan")), "^mask has other values than 0 and 1"),
        (torch.full((2, 5), 2), "^mask has other values than 0 and 1"),
        (torch.full((2, 5), -1), "^mask has other values than 0 and 1"),
        ("x", "^mask is 'x', expected a tensor"),
        (torch.nn.Linear, "^mask is the class Linear, expected a tensor"),
        (torch.ones(2, 4), r"^mask has shape \(2, 4\), expected \(2, 5\)"),
        (1, r"^mask has shape \(\), expected"),
    ],
)
def test_masks_that_are_refused(mask: Any, message: str) -> None:
    """An additive mask has 0 where a token takes part: read as it is, it would mean the reverse."""
    x = torch.randn(2, 5, 8)
    for call in (arm.ARM(), arm.ARM().plan):
        with pytest.raises(RequestError, match=message):
            call(x, mask)
    with pytest.raises(RequestError, match=message.replace("^mask", "^the mask")[:18]):
        Sketch().add(x, mask)


def test_masks_of_zeros_and_ones() -> None:
    x, mask = torch.randn(2, 3, 4), [[1, 1, 0], [0, 1, 1]]
    kinds = (torch.tensor(mask), torch.tensor(mask).float(), np.array(mask, bool), mask)
    found = [arm.ARM()(x, one) for one in kinds]
    assert all(torch.equal(one, found[0]) for one in found)
    assert to_mask(torch.tensor(mask).bfloat16(), "mask").tolist() == np.array(mask, bool).tolist()


def test_where_arm_writes() -> None:
    x = torch.randn(2, 5, 8)
    whole = torch.zeros(3, 5, 8)
    for out, message in (
        ([1], "^out is"),
        (np.ones((2, 5, 8), np.float32), "^out is a ndarray"),
        (x.half(), r"^out is \(2, 5, 8\) torch.float16, x is"),
        (torch.zeros(2, 5, 8, device="meta"), "^out is on the meta device"),
        (torch.zeros(1, 5, 8).expand(2, 5, 8), "^out shares memory with x, or holds a value"),
    ):
        with pytest.raises(RequestError, match=message):
            arm.ARM()(x, out=out)
    with pytest.raises(RequestError, match=r"^out shares memory with x"):
        arm.ARM()(whole[:2], out=whole[1:])
    apart = torch.zeros(4, 5, 8)
    assert arm.ARM()(apart[:2], out=apart[2:]).shape == (2, 5, 8)
    assert torch.equal(arm.ARM()(x.clone(), out=x.clone()), arm.ARM()(x))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer": "0"}, "^layer is '0', expected a whole number of 64 bits"),
        ({"layer": 1.5}, "^layer is 1.5, expected a whole number"),
        ({"layer": 2**70}, "^layer is a whole number of 71 bits, expected"),
        ({"documents": [0.5, 1.5]}, "^documents are no whole numbers"),
        ({"documents": ["a", "b"]}, "^documents is .*, expected a tensor or an array"),
        ({"documents": [0]}, r"^documents has shape \(1,\), expected \(2,\)"),
        ({"tokens": torch.rand(2, 5)}, "^tokens are no whole numbers"),
        ({"tokens": torch.ones(2, 5, dtype=torch.bool)}, "^tokens are no whole numbers"),
    ],
)
def test_keys_of_the_random_numbers(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        arm.ARM()(torch.randn(2, 5, 8), **keys)


def test_values_that_a_sketch_refuses() -> None:
    for values, message in (
        (torch.ones(3, dtype=torch.complex64), "^the values are complex64, expected numbers"),
        (torch.ones(3, dtype=torch.bool), "^the values are bool, expected numbers"),
        (np.ones(3, np.complex128), "^the values are of type complex128"),
        (np.ones(3, bool), "^the values are of type bool"),
        (np.array(["a"]), "^the values are a ndarray, expected numbers"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "^the values are a masked array"),
        (np.ones(3, np.longdouble), "^the values are of type float128|longdouble"),
        (iter([1.0]), "^the values are a list_iterator, expected numbers"),
        ([[1.0], [1.0, 2.0]], "^the values are"),
        (None, "^the values are None, expected numbers"),
        (SKETCH, "^the values are a Sketch, expected numbers"),
    ):
        with pytest.raises(RequestError, match=message):
            Sketch().add(values)


def test_values_of_other_layouts_are_counted() -> None:
    plain = np.arange(6.0, dtype=np.float32)
    for values in (plain.astype(">f4"), plain[::-1], plain.tolist(), plain.reshape(2, 3).T):
        assert Sketch().add(values).count == 6
    assert to_tensor(plain.astype(">f4"), "x").tolist() == plain.tolist()
    assert to_tensor([1, 2], "x").dtype == torch.float64


def test_numbers() -> None:
    assert check_key(np.int64(3), "seed") == 3
    assert to_keys(np.zeros(2), "documents").dtype == np.int64
    assert to_array(torch.ones(2, dtype=torch.bfloat16), "x").tolist() == [1.0, 1.0]
    check_width(np.float32(0.1))
    for value in (0, -1, float("nan"), float("inf"), "0.1", True, None):
        with pytest.raises(RequestError, match="it must be a number above 0"):
            check_width(value)
    found = arm.ARM(c=np.float32(0.5), passes=np.int64(2))
    assert (type(found.c), type(found.passes)) == (float, int)
    for name, wrong in (("c", True), ("p1", "99%"), ("passes", 1.0), ("seed", "a")):
        with pytest.raises(RequestError, match=f"^{name} is"):
            arm.ARM(**{name: wrong})
