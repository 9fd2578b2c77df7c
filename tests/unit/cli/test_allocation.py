"""The checked request of `distviz sweep --allocate`, and the command as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import distviz
from distviz.cli.allocation import allocation_study
from distviz.cli.commands import GRID
from distviz.errors import RequestError
from distviz.results.allocation import Allocation

NO_LISTS = dict.fromkeys(GRID)


def study(text: str, *, seeds: int = 1, by_layer: bool = False, **given: Any) -> Any:
    budget, config = given.pop("budget_kl", None), given.pop("config", None)
    flags = {name: given.pop(name) for name in ("p_min", "preset") if name in given}
    lists = NO_LISTS | given
    return allocation_study(None, text, lists, seeds, budget, by_layer, flags, config)


def test_defaults() -> None:
    found = study("50%", at="product+act", arm_layers=["1", "2"])
    assert (found.name, found.manifest) == ("demo-allocation", "allocation.json")
    assert found.settings.at == found.settings.sites == "product,act"
    request = found.measure.__self__.allocation
    assert (request.budget_kl, request.layers) == (None, "1;2")
    request = study("nvfp4,fp8-token").measure.__self__.allocation
    assert (request.budget_kl, request.layers) == (0.05, None)
    assert study("50%", budget_kl=0.1).measure.__self__.allocation.budget_kl == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": "0.1"}, "--c has no effect with --allocate"),
        ({"redistribution": "noise"}, "--redistribution has no effect with --allocate"),
        ({"fraction": "0.5"}, "--fraction has no effect"),
        ({"p_min": 0.1}, "--p-min has no effect"),
        ({"preset": "auto"}, "--preset has no effect"),
        ({"seeds": 2}, "--seeds has no effect"),
        ({"by_layer": True}, "--by-layer has no effect"),
        ({"budget_kl": 0.0}, "--budget-kl is 0"),
        ({"at": "nowhere"}, "unknown site 'nowhere'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        study("50%", **options)


def test_the_file_gives_the_promised_zeros_in_a_run(call: Any, tmp_path: Path) -> None:
    common = ["--max-length", 24, "--max-tokens", 400, "--dtype", "fp32", "--no-figures"]
    plan = call("sweep", "--allocate", "45%", "--arm-layers", "0-2", *common, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert 20 < json.loads(plan.out)["measurements"][0]["passes"] < 70
    done = call(
        "sweep", "--allocate", "45%", "--arm-layers", "0-2", *common, "--out", "found", "--json"
    )
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["verdict"].startswith("45.1 % zeros on average over 3 places")
    found = Allocation.load("found")
    assert told["command"] == found.command
    assert all(word in found.command for word in ("--max-length 24", "--dtype fp32"))
    run = distviz.run(
        redistribution="threshold:found/allocation.csv", at="act", arm_layers="0-2",
        max_length=24, max_tokens=400, dtype="fp32",
    )  # fmt: skip
    after = run.stats().query("phase == 'after' and layer < 3")
    assert (after["zeros"] / after["count"]).tolist() == found.table["zeros"].tolist()
    promised = found.chosen()["mean"]
    assert 0.45 <= promised < 0.452
    assert after["zeros"].sum() / after["count"].sum() == pytest.approx(promised, abs=1e-3)
    assert run.manifest["effect"]["kl"] == pytest.approx(found.chosen()["kl"], rel=1e-6)
    again = call(
        "sweep", "--allocate", "45%", "--arm-layers", "0-2", *common, "--out", "found", "--resume"
    )
    assert "is complete, nothing is left to measure" in again.err
    other = call(
        "sweep", "--allocate", "46%", "--arm-layers", "0-2", *common, "--out", "found", "--resume"
    )
    assert other.code == 2
