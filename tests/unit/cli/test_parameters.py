"""Parameters of Python's functions: their records, values as the command line has them, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distviz.cli.examples import PAGES
from distviz.cli.options import options_of
from distviz.cli.parameters import (
    arguments_of,
    bind,
    in_parameters,
    naming_parameters,
    parameters_of,
    signature_of,
)
from distviz.errors import MeasurementError, RequestError
from distviz.settings import OPTIONS

COMMANDS = [name for name in PAGES if name != "show"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_a_parameter(command: str) -> None:
    terminal = {"dry_run", "quiet", "as_json", "debug", "no_figures", "architectures"}
    names = {option.name for option in options_of(command)}
    found = set(parameters_of(command))
    assert names - found <= terminal
    assert found - names <= {"settings", "given", "progress"}
    assert list(signature_of(command, "").parameters) == list(parameters_of(command))


def test_defaults_are_those_of_the_settings() -> None:
    found = signature_of("run", "Run").parameters
    assert found["max_length"].default == OPTIONS["max_length"].default == 512
    assert found["figures"].default == ("png",)
    assert found["sites"].default is None  # it follows another parameter
    assert found["x_axis"].annotation == "Literal['auto', 'linear', 'symlog']"
    assert found["layers"].annotation == "str | int | Sequence[int]"
    assert signature_of("sweep", "").parameters["c"].annotation.startswith("str | float | Seq")


@pytest.mark.parametrize(
    ("command", "name", "value", "expected"),
    [
        ("run", "layers", [0, 3], "0,3"),
        ("run", "layers", range(3), "0,1,2"),
        ("run", "layers", 4, "4"),
        ("run", "layers", np.array([1, 2]), "1,2"),
        ("run", "layers", torch.tensor([1, 2]), "1,2"),
        ("run", "layers", "0,3-5", "0,3-5"),
        ("run", "sites", ("act", "down"), "act,down"),
        ("run", "p1", 0.5, 0.5),
        ("run", "p1", "50%", 50.0),
        ("run", "p_max", np.float64(0.2), 0.2),
        ("run", "p_max", "20%", 0.2),
        ("run", "max_length", np.int64(64), 64),
        ("run", "save_every", 3, 3.0),
        ("run", "out", Path("a/b"), "a/b"),
        ("run", "figures", [], "none"),
        ("run", "figures", ["png", "svg"], "png,svg"),
        ("run", "formats", [], None),
        ("run", "ripple", False, False),
        ("run", "dtype", torch.bfloat16, "bfloat16"),
        ("run", "device", torch.device("cpu"), "cpu"),
        ("compare", "b_dtype", torch.float16, "float16"),
        ("sweep", "c", [0.05, 1], "0.05,1"),
        ("sweep", "p1", [80, 0.5], "80,0.5%"),
        ("sweep", "arm_layers", "0;1", ["0;1"]),
        ("sweep", "arm_layers", [0, "0,1"], ["0", "0,1"]),
        ("whatif", "run", "a", Path("a")),
        ("whatif", "sparsity", [50, 90.5], "50,90.5"),
        ("report", "folders", "a", [Path("a")]),
        ("report", "folders", ["a", Path("b")], [Path("a"), Path("b")]),
        ("compare", "b_p1", 0.5, 0.5),
    ],
)
def test_values_become_those_of_the_command_line(
    command: str, name: str, value: Any, expected: Any
) -> None:
    found = getattr(arguments_of(command, {name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("command", "name", "value", "message"),
    [
        ("run", "max_length", "64", "max_length is '64', expected a whole number"),
        ("run", "max_length", 6.5, "max_length is 6.5, expected a whole number"),
        ("run", "max_length", True, "max_length is True, expected a whole number"),
        ("run", "max_length", [64], r"max_length is \[64\], it must be one value"),
        ("run", "c", "0.1", "c is '0.1', expected a number"),
        ("run", "ripple", 1, "ripple is 1, expected true or false"),
        ("run", "layers", True, "layers is True, expected a string"),
        ("run", "layers", [], "layers is empty"),
        ("run", "rotate", [], "rotate is empty"),
        ("whatif", "formats", [], "formats is empty"),
        ("run", "layers", {"a": 1}, "layers is .*, expected a string"),
        ("run", "layers", [None], "layers holds None, which is a NoneType"),
        ("run", "sites", torch.nn.Linear, "sites is .*, expected a string"),
        ("run", "out", 3, "out is 3, expected a string"),
        ("run", "p1", "many", "'many' is not a number"),
        ("run", "p1", "0.5", "may be 50% or 0.5%"),
        ("report", "folders", 3, "folders is 3, expected a list of"),
    ],
)
def test_values_of_another_type_are_refused(
    command: str, name: str, value: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        arguments_of(command, {name: value})


def test_an_unknown_name_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(RequestError, match=r"run\(\) has no parameter 'max_lenght' \(did you mean"):
        bind("run", (), {"max_lenght": 3})
    with pytest.raises(RequestError, match=r"'b_dtyp' .*'b_dtype'"):
        bind("compare", ("a", "b"), {"b_dtyp": "bf16"})
    with pytest.raises(TypeError, match=r"compare\(\): missing a required argument: 'b'"):
        bind("compare", ("a",), {})
    with pytest.raises(TypeError, match=r"run\(\): too many positional"):
        bind("run", ("a", "b"), {})
    with pytest.raises(RequestError, match=r"^run is None, whatif\(\) needs one"):
        bind("whatif", (None,), {})
    assert bind("run", ("a",), {"seed": None, "c": 0.1}) == {"model": "a", "c": 0.1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--max-length is 1", "max_length is 1"),
        ("give another --out, or --force to replace it", "give another out, or force=True to"),
        ("--no-ripple or --stream", "ripple=False or stream=True"),
        ("add --resume", "add resume=True"),
        ("--no-figures", "figures=[]"),
        ("measure it: distviz run x --text y", "measure it: distviz run x --text y"),
        ("MODEL is empty", "model is empty"),
        ("MODEL 'x' does not exist", "model='x' does not exist"),
        ("a MODEL is empty", "a MODEL is empty"),
        ("--safe_serialization", "--safe_serialization"),
    ],
)
def test_texts_name_parameters(text: str, expected: str) -> None:
    assert in_parameters(text, "run").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one text at a time: --batch-size 1", "one text at a time: batch_size=1"),
        ("give --max-length 64 or less", "give max_length=64 or less"),
        ("--layers 0,99: layer 99 does not", "layers=[0, 99]: layer 99 does not"),
        ("--layers '0,3-5' is not", "layers='0,3-5' is not"),
        ("--layers none leaves nothing", "layers='none' leaves nothing"),
        ("--sites 'act,up' is not", "sites=['act', 'up'] is not"),
        ("--sites module:*.fc1.", "sites='module:*.fc1'."),
        ("--at missing: no layer has it", "at='missing': no layer has it"),
        ("a smaller --dtype, --device cpu or --stream", "a smaller dtype, device='cpu' or stream="),
        ("--c 0.5 and --p1 50%", "c=0.5 and p1='50%'"),
        ("--p1 'many' is not a number", "p1='many' is not a number"),
        ("--text a,b.txt: there is no such", "text='a,b.txt': there is no such"),
        ("--text - cannot be read", "text='-' cannot be read"),
        ("--attn-implementation a/b if you trust it", "attn_implementation='a/b' if you trust"),
        ("--batch-size is 0, or --batch-size and", "batch_size is 0, or batch_size and"),
        ("--stream 'x'", "stream=True 'x'"),
        ("--out distviz run --c 1", "out distviz run --c 1"),
    ],
)
def test_values_are_written_as_in_python(text: str, expected: str) -> None:
    assert in_parameters(text, "run").startswith(expected)


def test_values_of_a_grid() -> None:
    assert in_parameters("--by-layer --c 0.1,0.3", "sweep") == "by_layer=True c=[0.1, 0.3]"
    assert in_parameters("--arm-layers '0;1': x", "sweep") == "arm_layers='0;1': x"
    assert in_parameters("--allocate 50%: x", "sweep") == "allocate='50%': x"


def test_names_that_differ_from_their_option() -> None:
    assert in_parameters("--for imatrix", "export") == "tool='imatrix'"
    assert in_parameters("--format png", "export") == "figures='png'"
    assert in_parameters("within --ranges mse.", "whatif", "``{}``") == "within ``ranges='mse'``."
    assert in_parameters("see --seed.", "run", "``{}``") == "see ``seed``."


def test_errors_name_parameters_and_stay_what_they_are() -> None:
    given = MeasurementError("--batch-size is large", "give a smaller --batch-size")
    with pytest.raises(MeasurementError) as caught, naming_parameters("run"):
        raise given
    assert caught.value is given
    assert str(given) == "batch_size is large\ngive a smaller batch_size"
    assert given.args == ("batch_size is large",)
