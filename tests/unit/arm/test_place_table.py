"""Thresholds and formats from files: what is read, what is refused, and which place gets which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import distviz
from distviz.arm.arm import ARM
from distviz.arm.controls import Cutoff, make_redistribution
from distviz.arm.place_table import read_formats, read_thresholds
from distviz.errors import RequestError
from distviz.sites import HookPoint
from distviz.studies import evaluate_whatif, parse_whatif

ACT = HookPoint(1, "decoder", "act", "m.1.act", "output")
PRODUCT = HookPoint(1, "decoder", "product", "m.1.down", "input")


def written(folder: Path, text: str) -> str:
    file = folder / "t.csv"
    file.write_text(text)
    return str(file)


def test_columns_of_the_place_are_optional(tmp_path: Path) -> None:
    table = read_thresholds(written(tmp_path, "layer,threshold\n0,0.5\n1,0.25\n"), "t")
    assert table.of(ACT) == table.of(PRODUCT) == 0.25
    text = "threshold,site,layer\n0.5,act,1\n0.125,product,1\n"
    table = read_thresholds(written(tmp_path, text), "t")
    assert (table.of(ACT), table.of(PRODUCT)) == (0.5, 0.125)
    arm = make_redistribution(f"threshold:{tmp_path / 't.csv'}", ARM()).at(PRODUCT)
    assert isinstance(arm, Cutoff)
    assert arm.largest == 0.125


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,limit\n0,1\n", "no column threshold"),
        ("layer,threshold\n0,-1\n", "line 2"),
        ("layer,threshold\n0.5,1\n", "line 2"),
        ("layer,threshold\n0,1\nx,1\n", "line 3"),
        ("layer,threshold\n0,nan\n", "line 2"),
        ("layer,threshold\n", "no thresholds"),
        ("layer,threshold\n0\n", "line 2"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_thresholds(written(tmp_path, text), "threshold:t.csv")


def test_a_place_without_threshold_is_named(tmp_path: Path) -> None:
    table = read_thresholds(written(tmp_path, "layer,threshold\n0,1\n"), "t")
    with pytest.raises(RequestError, match="no threshold for layer 1, site act"):
        table.of(ACT)
    table = read_thresholds(written(tmp_path, "layer,threshold\n1,1\n1,2\n"), "t")
    with pytest.raises(RequestError, match="2 thresholds for layer 1"):
        table.of(ACT)
    with pytest.raises(RequestError, match="cannot be read"):
        read_thresholds(str(tmp_path / "none.csv"), "threshold:none.csv")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("site", ["act", "product"])
def test_thresholds_of_a_whatif_give_the_promised_zeros(
    tmp_path: Path, dtype: str, site: str
) -> None:
    """On the same text every place has exactly the share of zeros that the what-if states."""
    common = {"max_tokens": 700, "sites": site, "dtype": dtype, "ripple": False}
    plain = distviz.run(arm_layers="none", **common)
    asked = evaluate_whatif(plain, parse_whatif(sparsity="30,50", formats="none"))
    asked.save(tmp_path / "w")
    with pytest.raises(RequestError, match="does not say which level: the what-if has 30%, 50%"):
        distviz.run(redistribution=f"threshold:{tmp_path / 'w'}", **common)
    with pytest.raises(RequestError, match="no level 40%"):
        distviz.run(redistribution=f"threshold:{tmp_path / 'w'}@40%", **common)
    run = distviz.run(
        redistribution=f"threshold:{tmp_path / 'w'}@50%", at=site, arm_layers="all", **common
    )
    promised = asked.table[asked.table["level"] == 0.5].set_index("layer")["zeros"]
    stats = run.stats().query("phase == 'after'").set_index("layer")
    assert len(stats) == len(promised) > 1
    assert np.array_equal((stats["zeros"] / stats["count"]).loc[promised.index], promised)


def test_rounding_of_float32_is_that_of_the_counts() -> None:
    """Values around every cell's edge fall on the side on which they are counted."""
    from distviz.stats import Sketch

    edges = torch.arange(0x3C00, 0x3C40, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    middle = (edges[:-1].double() + edges[1:].double()).div(2).float()
    inf = torch.tensor(float("inf"))
    x = torch.cat([middle, torch.nextafter(middle, inf), torch.nextafter(middle, -inf)])
    values, counts = (Sketch().add(x)).magnitude_pairs()
    for largest in edges.double().tolist():
        cutoff = Cutoff(largest=largest, is_of_counts=True)
        zeros = int((cutoff(x[:, None]) == 0).sum())
        assert zeros == int(counts[values <= largest].sum())


def test_formats_of_places(tmp_path: Path) -> None:
    file = written(tmp_path, "layer,site,format\n1,act,int8-token\n1,product,none\n")
    values = torch.randn(5, 40)
    arm = make_redistribution(f"quantize:{file}", ARM())
    assert arm.described() == f"the formats of {file}"
    own = make_redistribution("quantize:int8-token", ARM())
    assert torch.equal(arm.at(ACT)(values), own(values))
    assert torch.equal(arm.at(PRODUCT)(values), values)
    with pytest.raises(RequestError, match="no format for layer 0, site act"):
        arm.at(HookPoint(0, "decoder", "act", "m.0.act", "output"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,threshold\n0,1\n", "no column format"),
        ("layer,format\n0,int9\n", "line 2 of .*format 'int9'"),
        ("layer,format\n0,0.5\n", "line 2"),
        ("layer,format\n", "no formats"),
    ],
)
def test_formats_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_redistribution(f"quantize:{written(tmp_path, text)}", ARM())
    with pytest.raises(RequestError, match="int9"):
        make_redistribution("quantize:int9", ARM())
    with pytest.raises(RequestError, match="cannot be read"):
        read_formats(str(tmp_path / "none.csv"), "quantize:none.csv", {"int8"})
