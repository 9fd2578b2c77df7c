"""Settings: who wins, what a preset means, and what a mistyped key is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distviz.arm.arm import ARM
from distviz.arm.presets import PRESETS, find_preset, propose
from distviz.errors import RequestError
from distviz.settings import LayerSettings, RunSettings, build_settings
from distviz.stats.sketch import Sketch


def toml(folder: Path, text: str, name: str = "c.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# Precedence ---------------------------------------------------------------------------------


def test_defaults_are_those_of_the_design() -> None:
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


def test_flag_beats_config_beats_model_toml_beats_default(tmp_path: Path) -> None:
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
def test_a_flag_that_says_no_is_still_a_flag(
    flags: dict[str, Any], name: str, value: Any, tmp_path: Path
) -> None:
    text = 'ripple = true\nseed = 9\np-min = 0.1\nfigures = ["svg"]\nskip-special = true'
    assert getattr(build_settings(flags, toml(tmp_path, text)), name) == value


def test_the_model_may_stand_in_the_config_and_the_flag_wins(tmp_path: Path) -> None:
    config = toml(tmp_path, 'model = "org/one"\n')
    assert build_settings({}, config).model == "org/one"
    assert build_settings({}, config, "org/two").model == "org/two"


def test_keys_may_be_written_with_hyphens(tmp_path: Path) -> None:
    config = toml(tmp_path, 'arm-layers = "0,2"\nmax-length = 64\np-max = 1\n')
    settings = build_settings({}, config)
    assert (settings.arm_layers, settings.max_length, settings.p_max) == ("0,2", 64, 1.0)
    assert isinstance(settings.p_max, float)


def test_lists_of_one_may_be_given_bare(tmp_path: Path) -> None:
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


def test_settings_are_plain_data() -> None:
    settings = build_settings({"c": 0.2})
    assert RunSettings(**settings.as_dict()) == settings
    with pytest.raises(dataclasses.FrozenInstanceError, match="c"):
        settings.c = 0.3  # type: ignore[misc]


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


def test_a_toml_that_is_no_text(tmp_path: Path) -> None:
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
    ("table", "match"),
    [
        ({"layers": 0}, r"layer\.layers is 0"),
        ({"hidden_size": 10, "heads": 3}, r"layer\.hidden_size 10 is not a multiple"),
        ({"heads": 8, "kv_heads": 3, "hidden_size": 64}, r"layer\.heads 8 is not a multiple"),
        ({"input": "text"}, r"layer\.input is 'text'"),
        ({"scale": 0.0}, r"layer\.scale is 0"),
        ({"scale": float("nan")}, r"layer\.scale is nan"),
        ({"scale": float("inf")}, r"layer\.scale is inf"),
        ({"tokens": 0}, r"layer\.tokens is 0"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_built(table: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        LayerSettings(**table)


def test_the_sample_configs_are_valid() -> None:
    folder = Path(__file__).parents[2] / "sample_configs"
    found = sorted(folder.glob("*.toml"))
    assert len(found) >= 5
    for path in found:
        build_settings({}, None, str(path))


# Presets ------------------------------------------------------------------------------------

# ARM.md, "Settings published for seven models", typed out by hand: (c or fraction, p1).
BENCHMARKS = ("gpqa", "math-500", "aime24", "aime25", "humaneval", "livecodebench")
QWEN: dict[str, list[tuple[float, float] | None]] = {
    "qwen2.5-math-1.5b": [
        (0.15, 99.5), (0.13, 99.5), (0.13, 99.5), (0.13, 99.5), (0.13, 99.5), None,
    ],
    "qwen2.5-math-7b": [(0.2, 99.5), (0.1, 95), (0.05, 90), (0.13, 99.5), (0.13, 95), None],
    "qwen2.5-7b-instruct": [(0.15, 99.5), (0.1, 99.5), None, (0.13, 95), (0.05, 90), (0.3, 99.5)],
    "qwen2.5-32b-instruct": [
        (0.05, 90.5), None, (0.13, 99.5), (0.05, 99), (0.13, 99.5), (0.3, 99.5),
    ],
}  # fmt: skip
LLAMA: dict[str, list[tuple[float, float] | None]] = {
    "llama-3.1-8b-instruct": [(0.45, 80), (0.32, 90), (0.32, 90), None, (0.3, 90), (0.3, 90)],
}
GEMMA: dict[str, list[tuple[float, float] | None]] = {
    "gemma-3-4b-it": [(0.5, 96.5), (0.25, 85), (0.25, 96.5), (0.25, 85), (0.25, 96.5), (0.25, 75)],
    "gemma-3-27b-it": [(0.5, 96.5), (0.25, 85), (0.25, 85), (0.25, 70), (0.25, 85), (0.25, 85)],
}


def published() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in (QWEN, LLAMA, GEMMA):
        for model, cells in table.items():
            for benchmark, cell in zip(BENCHMARKS, cells, strict=True):
                if cell is None:
                    continue
                first, p1 = cell
                if table is GEMMA:
                    entry = {"fraction": first, "p1": p1, "percentile_of": "magnitude"}
                else:
                    entry = {"c": first, "p1": p1} | ({"p_min": 0.2} if table is LLAMA else {})
                found[f"{model}:{benchmark}"] = entry
            default = "aime24" if model == "qwen2.5-32b-instruct" else "math-500"
            found[model] = found[f"{model}:{default}"]
    return found


def test_presets_are_those_of_the_paper() -> None:
    assert published() == PRESETS
    assert len(PRESETS) == 7 + 37


@pytest.mark.parametrize("name", sorted(published()))
def test_every_preset_builds(name: str) -> None:
    arm = build_settings({"preset": name}).arm()
    assert arm == ARM(**published()[name])


def test_an_explicit_value_beats_a_preset(tmp_path: Path) -> None:
    config = toml(tmp_path, 'preset = "llama-3.1-8b-instruct:gpqa"\np1 = 70\n')
    settings = build_settings({"c": 0.9}, config)
    assert (settings.c, settings.p1, settings.p_min) == (0.9, 70.0, 0.2)
    assert build_settings({"preset": "qwen2.5-math-7b"}, config).c == 0.1


@pytest.mark.parametrize(
    ("model", "preset"),
    [
        ("org/Qwen2.5-Math-7B", "qwen2.5-math-7b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("google/gemma-3-4b-it", "gemma-3-4b-it"),
        ("models/gemma-3-27b-it-Q4_K_M.gguf", "gemma-3-27b-it"),
        ("Qwen/Qwen2.5-7B-Instruct/", "qwen2.5-7b-instruct"),
    ],
)
def test_auto_goes_by_the_name_of_the_model(model: str, preset: str) -> None:
    assert find_preset("auto", model) == published()[preset]


def test_unknown_presets() -> None:
    assert find_preset("auto", "org/some") is None
    assert find_preset("auto", None) is None
    with pytest.raises(RequestError, match=r"'gemma-3-4b' \(did you mean 'gemma-3-4b-it'\?\)"):
        find_preset("gemma-3-4b", None)
    with pytest.raises(RequestError, match=r"unknown preset 'qwen2\.5-32b-instruct:math-500'"):
        find_preset("qwen2.5-32b-instruct:math-500", None)
    assert find_preset("Gemma-3-4B-it:GPQA", None) == published()["gemma-3-4b-it:gpqa"]


def test_a_preset_is_a_copy() -> None:
    find_preset("gemma-3-4b-it", None)["p1"] = 0
    assert find_preset("gemma-3-4b-it", None) == published()["gemma-3-4b-it"]


@pytest.mark.parametrize(
    ("near", "others", "expected"),
    [
        (95, 5, {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"}),
        (60, 40, {"c": 0.1, "p1": 99.5}),
        (40, 60, {"c": 0.32, "p1": 90.0}),
    ],
)
def test_the_rule_of_thumb(near: int, others: int, expected: dict[str, Any]) -> None:
    values = np.array([1e-3] * near + [1.0, -1.0] * (others // 2) + [1.0] * (others % 2))
    found = propose(Sketch().add(values))
    assert found.settings == expected
    assert found.evidence.startswith(f"{near}% of the values")
    assert propose(Sketch().add(values * 100)).settings == expected


def test_a_proposal_fills_what_nothing_was_said_of(tmp_path: Path) -> None:
    proposed = {"fraction": 0.25, "p1": 85.0, "percentile_of": "magnitude"}
    said = build_settings({"preset": "auto", "p1": 99.5}, toml(tmp_path, "seed = 3\n"))
    found = said.with_proposal(proposed)
    assert (found.fraction, found.p1, found.percentile_of) == (0.25, 99.5, "magnitude")
    with_c = build_settings({"preset": "auto", "c": 0.13}).with_proposal(proposed)
    assert (with_c.c, with_c.fraction, with_c.p1) == (0.13, None, 85.0)
    assert "explicit" not in found.as_dict()
    with pytest.raises(RequestError, match="unknown key 'explicit'"):
        build_settings({}, toml(tmp_path, 'explicit = ["c"]\n'))
