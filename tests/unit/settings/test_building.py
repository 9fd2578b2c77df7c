"""Settings: precedence of flags, files and presets, and errors for wrong keys and values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distviz.arm.arm import ARM
from distviz.errors import RequestError
from distviz.settings import (
    OPTIONS,
    LayerSettings,
    RunSettings,
    build_settings,
    settings_of_folder,
)


def toml(folder: Path, text: str, name: str = "c.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# Precedence ---------------------------------------------------------------------------------


def test_defaults() -> None:
    settings = build_settings({})
    expected = {
        "model": None, "text": [], "layers": "all", "sites": "act", "arm_layers": "0", "c": 0.13,
        "p1": 99.5, "p_min": 0.02, "p_max": 0.25, "fraction": None, "arm_mode": "replace",
        "percentile_of": "value", "passes": 1, "preset": None, "ripple": True, "filler": None,
        "filler_count": 55, "filler_position": "between", "chat_template": False,
        "max_length": 512, "max_tokens": None, "batch_size": 4, "dtype": "auto", "device": "auto",
        "skip_special": False, "classes": "arm", "keep_text": True, "seed": 0, "out": None,
        "force": False, "figures": ["png"], "layer": None,
    }  # fmt: skip
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.arm() == ARM()


def test_precedence_of_flag_config_model_toml_and_default(tmp_path: Path) -> None:
    weak = toml(tmp_path, "c = 0.2\np1 = 90\nseed = 3\nbatch_size = 2", "model.toml")
    strong = toml(tmp_path, "c = 0.3\np1 = 95", "config.toml")
    settings = build_settings({"c": 0.4, "seed": None}, strong, str(weak))
    assert (settings.c, settings.p1, settings.seed) == (0.4, 95.0, 3)
    assert (settings.batch_size, settings.p_max) == (2, 0.25)


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ({"ripple": False}, "ripple", False),
        ({"seed": 0}, "seed", 0),
        ({"p_min": 0.0}, "p_min", 0.0),
        ({"figures": []}, "figures", []),
        ({"skip_special": False}, "skip_special", False),
    ],
)
def test_a_false_or_zero_flag_overrides_the_file(
    flags: dict[str, Any], name: str, value: Any, tmp_path: Path
) -> None:
    text = 'ripple = true\nseed = 9\np-min = 0.1\nfigures = ["svg"]\nskip-special = true'
    assert getattr(build_settings(flags, toml(tmp_path, text)), name) == value


def test_the_model_argument_overrides_the_config(tmp_path: Path) -> None:
    config = toml(tmp_path, 'model = "org/one"\n')
    assert build_settings({}, config).model == "org/one"
    assert build_settings({}, config, "org/two").model == "org/two"


def test_keys_with_hyphens(tmp_path: Path) -> None:
    config = toml(tmp_path, 'arm-layers = "0,2"\nmax-length = 64\np-max = 1\n')
    settings = build_settings({}, config)
    assert (settings.arm_layers, settings.max_length, settings.p_max) == ("0,2", 64, 1.0)
    assert isinstance(settings.p_max, float)


def test_a_list_of_one_may_be_a_single_value(tmp_path: Path) -> None:
    settings = build_settings({}, toml(tmp_path, 'text = "a.txt"\nfigures = "svg"\n'))
    assert (settings.text, settings.figures) == (["a.txt"], ["svg"])


def test_a_layer_table(tmp_path: Path) -> None:
    text = """
    c = 0.2
    [layer]
    architecture = "gemma2"
    hidden-size = 32
    heads = 4
    kv_heads = 2
    activation = "gelu"
    weights-layers = 3
    [layer.config]
    rms_norm_eps = 1e-4
    """
    settings = build_settings({}, None, str(toml(tmp_path, text)))
    assert settings.model is None
    assert settings.layer == LayerSettings(
        architecture="gemma2", hidden_size=32, heads=4, kv_heads=2, activation="gelu",
        weights_layers=[3], config={"rms_norm_eps": 1e-4},
    )  # fmt: skip
    # a model named on the command line is measured instead of the layers of --config
    named = build_settings({}, toml(tmp_path, text), "org/model")
    assert (named.model, named.layer) == ("org/model", None)


# Bad keys and values ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("arm_layer = '0'", r"unknown key 'arm_layer' \(did you mean 'arm_layers'\?\)"),
        ("arm-layer = '0'", r"unknown key 'arm[-_]layer' \(did you mean 'arm_layers'\?\)"),
        ("maxlength = 3", r"unknown key 'maxlength' \(did you mean 'max_length'\?\)"),
        ("qqqqqq = 3", r"unknown key 'qqqqqq'\n"),
        ("[layer]\nhiden_size = 3", r"'layer\.hiden_size' \(did you mean 'hidden_size'\?\)"),
        ("[layers]\nhidden_size = 3", r"'layers' is \{.*expected a string"),
        ("layer = 3", r"'layer' is 3, expected a table"),
        ("c = '0.2'", r"'c' is '0\.2', expected a number"),
        ("c = true", r"'c' is True, expected a number"),
        ("seed = 1.5", r"'seed' is 1\.5, expected a whole number"),
        ("seed = true", r"'seed' is True, expected a whole number"),
        ("ripple = 1", r"'ripple' is 1, expected true or false"),
        ("layers = 0", r"'layers' is 0, expected a string"),
        ("text = [1]", r"'text' is \[1\], expected a list of strings"),
        ("max_tokens = 'many'", r"'max_tokens' is 'many', expected a whole number or nothing"),
        ("[layer]\nlayers = '2'", r"'layer\.layers' is '2', expected a whole number"),
        ("c = ", r"cannot be read as TOML"),
        ("c = 0.1\nc = 0.2", r"cannot be read as TOML"),
    ],
)
def test_a_bad_toml_names_the_key(tmp_path: Path, text: str, match: str) -> None:
    path = toml(tmp_path, text + "\n", "bad.toml")
    with pytest.raises(RequestError, match=rf"(?s)bad\.toml.*{match}") as caught:
        build_settings({}, path)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_toml_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"bad\.toml cannot be read"):
        build_settings({}, path)
    with pytest.raises(RequestError, match=r"none\.toml does not exist"):
        build_settings({}, tmp_path / "none.toml")
    with pytest.raises(RequestError, match=r"none\.toml does not exist"):
        build_settings({}, None, str(tmp_path / "none.toml"))
    with pytest.raises(RequestError, match="cannot be read"):
        build_settings({}, tmp_path)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"c": 0.0}, "c is 0.0, it must be above 0"),
        ({"c": -1.0}, "c is -1.0"),
        ({"p1": 101.0}, "p1 is 101.0, it must lie between 0 and 100"),
        ({"p1": -0.1}, "p1 is -0.1"),
        ({"p_min": 0.4, "p_max": 0.3}, "p_min 0.4 is larger than p_max 0.3"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"arm_mode": "replce"}, r"'replce' \(did you mean 'replace'\?\)"),
        ({"percentile_of": "values"}, r"did you mean 'value'"),
        ({"passes": 0}, "passes is 0"),
        ({"max_length": 1}, "--max-length is 1, it must be at least 2"),
        ({"max_tokens": 0}, "--max-tokens is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"filler_count": -1}, "--filler-count is -1"),
        ({"filler_position": "middle"}, "--filler-position is 'middle'"),
        ({"dtype": "float23"}, r"--dtype is 'float23' \(did you mean 'float32'\?\)"),
        ({"classes": "some"}, "--classes is 'some'"),
        ({"figures": ["jpg"]}, r"--figures is 'jpg'"),
    ],
    ids=str,
)
def test_values_out_of_range(flags: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        build_settings(flags)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", ["a.txt"]),
        ("filler", "/"),
        ("filler_count", 3),
        ("chat_template", True),
        ("max_length", 9),
        ("max_tokens", 9),
        ("skip_special", True),
        ("revision", "main"),
    ],
)
def test_options_without_effect_on_built_layers_are_refused(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = toml(tmp_path, "[layer]\nheads = 3\n")
    flag = OPTIONS[name].spellings[0].partition("/")[0]
    with pytest.raises(RequestError, match=rf"{flag} has no effect on layers"):
        build_settings({name: value}, None, str(path))
    option = OPTIONS[name]
    if option.default in (None, False, []):
        assert build_settings({name: option.default}, None, str(path)).layer is not None
    filler = {"filler": "/"} | {name: value}
    assert getattr(build_settings(filler), name) == value


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"filler_count": 3}, "--filler-count has no effect without --filler"),
        ({"filler_count": 55}, "--filler-count has no effect without --filler"),
        ({"filler_position": "end"}, "--filler-position has no effect without --filler"),
        ({"filler_kind": "words"}, "--filler-kind has no effect without --filler"),
        ({"stream": False, "stream_memory": 9}, "--stream-memory has no effect with --no-stream"),
        ({"figures": [], "centred": True}, "--centred has no effect without figures"),
        ({"figures": [], "figure_width": "single"}, "--figure-width .* without figures"),
        ({"device": "cpu", "device_map": "auto"}, "--device has no effect with --device-map"),
    ],
    ids=str,
)
def test_settings_without_effect_are_refused_by_name(given: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        build_settings(given)
    assert caught.value.hint.startswith("remove --")


@pytest.mark.parametrize(
    "given",
    [
        {"filler": "/", "filler_count": 3},
        {"stream_memory": 9},
        {"arm_layers": "none", "c": 0.5},
        {"arm_layers": "none", "ripple": False},
        {"arm_layers": "none", "p1": 90.0},
        {"redistribution": "noise", "p1": 90.0},
        {"redistribution": "scale", "p_min": 0.1},
        {"figures": []},
        {"preset": "gemma-3-4b-it:gpqa", "redistribution": "threshold"},
        {"stream": False},
    ],
    ids=str,
)
def test_settings_with_an_effect_are_accepted(given: dict[str, Any]) -> None:
    assert build_settings(given)


def test_what_has_no_effect_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = toml(tmp_path, "max-tokens = 9\n[layer]\nheads = 3\n")
    with pytest.raises(RequestError, match=rf"^'max_tokens' in {path} has no effect on layers"):
        build_settings({}, None, str(path))
    with pytest.raises(RequestError, match=r"^--max-tokens has no effect on layers"):
        build_settings({"max_tokens": 7}, None, str(path))
    config = toml(tmp_path, "filler_count = 3\n", "config.toml")
    with pytest.raises(RequestError, match=rf"^'filler_count' in {config} has no effect without"):
        build_settings({}, config)
    assert build_settings({}, config, command="filler").filler_count == 3
    default = toml(tmp_path, "filler_count = 55\n", "config.toml")
    assert build_settings({}, default).filler_count == 55


def test_a_revision_of_the_weights_of_built_layers_has_an_effect(tmp_path: Path) -> None:
    path = toml(tmp_path, '[layer]\nweights = "org/name"\n')
    assert build_settings({"revision": "main"}, None, str(path)).revision == "main"


def test_sample_configs_are_valid() -> None:
    folder = Path(__file__).parents[3] / "sample_configs"
    found = sorted(folder.glob("*.toml"))
    assert len(found) >= 5
    for path in found:
        build_settings({}, None, str(path))


# Presets ------------------------------------------------------------------------------------


def test_an_explicit_value_overrides_a_preset(tmp_path: Path) -> None:
    config = toml(tmp_path, 'preset = "llama-3.1-8b-instruct:gpqa"\np1 = 70\n')
    settings = build_settings({"c": 0.9}, config)
    assert (settings.c, settings.p1, settings.p_min) == (0.9, 70.0, 0.2)
    assert build_settings({"preset": "qwen2.5-math-7b"}, config).c == 0.1


# What a setting changes ---------------------------------------------------------------------


# What may run code ----------------------------------------------------------------------------

CODE: dict[str, Any] = {
    "redistribution": "evil:run",
    "attn_implementation": "org/kernel",
    "allow_pickle": True,
    "trust_remote_code": True,
}


def written(name: str) -> str:
    """The line of a TOML file."""
    value = CODE[name]
    return f"{name} = {'true' if value is True else repr(value)}\n"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working directory that leaves a file when it is imported."""
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nrun = lambda x: x\n"
    (tmp_path / "evil.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return marker


def test_the_options_that_let_code_run_are_marked() -> None:
    assert {name for name, option in OPTIONS.items() if option.runs_code} == set(CODE)
    harmless = {
        "redistribution": "scale:3", "attn_implementation": "sdpa", "allow_pickle": False,
        "trust_remote_code": False,
    }  # fmt: skip
    for name, option in OPTIONS.items():
        if option.runs_code:
            assert option.runs_code(CODE[name])
            assert not option.runs_code(harmless[name])
            assert not option.runs_code(option.default)


@pytest.mark.parametrize("name", [n for n, option in OPTIONS.items() if option.runs_code])
def test_no_file_and_no_folder_lets_code_run(name: str, tmp_path: Path, evil: Path) -> None:
    value, path = CODE[name], toml(tmp_path, written(name))
    hint = OPTIONS[name].typed(value)
    ways: list[Callable[[], object]] = [
        lambda: build_settings({}, path),
        lambda: build_settings({}, None, str(path)),
        lambda: build_settings({"c": 0.2}, path, "demo"),
        lambda: settings_of_folder({name: value}, str(path)),
        lambda: replace(build_settings({}), **{name: value}),
        lambda: replace(RunSettings(), **{name: value}),
        lambda: RunSettings().with_proposal({name: value}),
    ]
    for way in ways:
        with pytest.raises(RequestError, match=f"{name} = .* lets code run") as caught:
            way()
        assert caught.value.hint == f"if you trust that code, type {hint}"
    assert not evil.exists()


@pytest.mark.parametrize("name", CODE)
def test_what_is_typed_may_run_code(name: str, tmp_path: Path, evil: Path) -> None:
    path = toml(tmp_path, written(name))
    for config in (None, path):
        settings = build_settings({name: CODE[name]}, config)
        assert getattr(replace(settings, c=0.3), name) == CODE[name]
        assert "trusted" not in settings.as_dict()
    assert getattr(RunSettings(**{name: CODE[name]}), name) == CODE[name]
    assert evil.exists() is (name == "redistribution")
    with pytest.raises(RequestError, match="lets code run"):
        replace(build_settings({"redistribution": "evil:run"}), redistribution="evil:other")


def test_only_one_place_makes_settings_from_a_table() -> None:
    """The constructor trusts its values, so what is read from a file goes another way."""
    package = Path(__file__).parents[3] / "distviz"
    makers = [
        path.name for path in package.rglob("*.py") if "RunSettings(**" in path.read_text("utf-8")
    ]
    assert makers == ["building.py"]


def test_a_proposal_fills_only_what_was_not_given(tmp_path: Path) -> None:
    proposed = {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"}
    given = build_settings({"preset": "auto", "p1": 99.5}, toml(tmp_path, "seed = 3\n"))
    found = given.with_proposal(proposed)
    assert (found.fraction, found.p1, found.percentile_of) == (0.25, 99.5, "magnitude")
    with_c = build_settings({"preset": "auto", "c": 0.13}).with_proposal(proposed)
    assert (with_c.c, with_c.fraction, with_c.p1) == (0.13, None, 85.0)
    assert "explicit" not in found.as_dict()
    with pytest.raises(RequestError, match="unknown key 'explicit'"):
        build_settings({}, toml(tmp_path, 'explicit = ["c"]\n'))
