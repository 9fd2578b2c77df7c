"""`--dry-run`: counts as the run itself has them, the same refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from distviz.cli.commands import compare_study, filler_study, run_study
from distviz.cli.dry_run import dry_run
from distviz.errors import RequestError
from distviz.measure import world as processes
from distviz.models.safetensors_files import read_header

# Counts of a command ------------------------------------------------------------------------


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    lines = ["Anna had 12 apples. " * 9, "If it rains, then we stay at home.", "9 * 3 = 27"]
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return path


def planned(call: Any, *args: Any) -> dict[str, Any]:
    """Call a command with --dry-run; it may read no weights and write nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("loading._load", "lazy_layers.LayersOnDisk._read"):
            patch.setattr(f"distviz.models.{name}", lambda *_: pytest.fail("weights"))
        done = call(*args, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(Path.cwd().iterdir()) == []
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("flags", "passes"),
    [
        ([], 2),
        (["--arm-layers", "none"], 1),
        (["--no-ripple"], 1),
        (["--sites", "act,product,q", "--layers", "1", "--max-length", "16"], 2),
        (["--batch-size", "2", "--skip-special", "--classes", "all"], 2),
    ],
)
def test_counts_are_those_of_the_run(
    flags: list[str], passes: int, call: Any, tiny_llama: Path, text_file: Path
) -> None:
    args = ["run", tiny_llama, "--text", text_file, "-o", "out", "--no-figures", *flags]
    plan = planned(call, *args)
    (one,) = plan["measurements"]
    assert (plan["kind"], plan["command"], plan["folder"]) == ("plan", "run", "out")
    assert one["passes"] == passes
    assert one["bytes_read"] == sum(file["bytes"] for file in one["files"])
    assert plan["memory_bytes"] == sum(
        size for name, size in one["memory_bytes"].items() if name != "total"
    )


def test_a_run_after_its_plan(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["run", tiny_llama, "--text", text_file, "-o", "out", "--max-length", "16", "--json"]
    args += ["--sites", "act,product,q", "--arm-layers", "0,1"]
    plan = json.loads(call(*args, "--dry-run").out)
    done = json.loads(call(*args).out)
    (one,) = plan["measurements"]
    for name in ("documents", "windows", "tokens", "truncated"):
        assert one["text"][name] == done["text"][name], name
    for name in ("architecture", "parameters", "dtype", "layers", "fingerprint", "device"):
        assert one["model"][name] == done["model"][name], name
    assert one["arm_layers"] == done["arm"]["layers"]
    assert one["points"] == len({(row["layer"], row["site"]) for row in done["stats"]})
    assert one["bytes_read"] == (tiny_llama / "model.safetensors").stat().st_size
    written = sum(path.stat().st_size for path in Path("out").rglob("*") if path.is_file())
    assert 0.5 < plan["disk_bytes"] / written < 2


def test_only_what_is_needed_is_read(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["run", tiny_llama, "--text", text_file, "--layers", "0", "--no-ripple", "-o", "out"]
    (one,) = planned(call, *args)["measurements"]
    tensors = read_header(tiny_llama / "model.safetensors")
    left = sum(tensor.bytes for name, tensor in tensors.items() if ".layers.1." in name)
    assert one["bytes_read"] == sum(tensor.bytes for tensor in tensors.values()) - left
    assert not one["reads_all"]
    (whole,) = planned(call, "run", tiny_llama, "--text", text_file)["measurements"]
    assert one["memory_bytes"]["weights"] < whole["memory_bytes"]["weights"]
    assert one["operations"] == pytest.approx(whole["operations"] / 2 / 2, rel=0.1)


def test_a_streamed_run_says_so(call: Any, tiny_llama: Path, text_file: Path) -> None:
    (one,) = planned(call, "run", tiny_llama, "--text", text_file, "--stream")["measurements"]
    assert one["streamed"]
    assert one["memory_bytes"]["hidden_states"] > 0
    done = call("run", tiny_llama, "--text", text_file, "--stream", "--dry-run")
    assert "layer by layer" in done.out


def test_built_layers_read_nothing(call: Any, tmp_path: Path) -> None:
    toml = tmp_path / "layer.toml"
    toml.write_text("[layer]\nhidden_size = 36\nintermediate_size = 64\ntokens = 32\n")
    plan = planned(call, "run", toml)
    (one,) = plan["measurements"]
    assert (one["bytes_read"], one["text"]["documents"], one["text"]["tokens"]) == (0, 8, 256)
    assert "nothing: random weights" in call("run", toml, "--dry-run").out


def test_compare_filler_and_sweep(call: Any, tiny_llama: Path, text_file: Path) -> None:
    plan = planned(call, "compare", tiny_llama, "demo", "--text", text_file)
    assert [one["side"] for one in plan["measurements"]] == ["A", "B"]
    assert [one["passes"] for one in plan["measurements"]] == [1, 1]
    assert plan["memory_bytes"] == max(one["memory_bytes"]["total"] for one in plan["measurements"])
    assert plan["models_in_memory"] == 1
    plan = planned(call, "filler", tiny_llama, "--counts", "0,3,7", "--text", text_file)
    (one,) = plan["measurements"]
    assert one["passes"] == 3
    tokens = planned(call, "run", tiny_llama, "--text", text_file)["measurements"][0]["text"]
    assert one["text"]["tokens"] == 3 * tokens["tokens"] + 3 * (3 + 7)
    flags = ["--c", "0.1,0.2", "--arm-layers", "0;1", "--seeds", "3", "--text", text_file]
    plan = planned(call, "sweep", tiny_llama, *flags)
    # Two settings in layer 0 (whole passes) and two in layer 1 (half of one), three seeds each.
    assert plan["measurements"][0]["passes"] == 1 + 3 * (2 * 1 + 2 * 0.5)


def test_value_by_value_holds_both_models(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["compare", tiny_llama, tiny_llama, "--text", text_file, "--elementwise"]
    plan = planned(call, *args)
    assert plan["models_in_memory"] == 2
    assert plan["memory_bytes"] == sum(one["memory_bytes"]["total"] for one in plan["measurements"])
    assert [one["passes"] for one in plan["measurements"]] == [2, 2]
    local = planned(call, *args, "--local")["measurements"]
    assert [one["passes"] for one in local] == [2, 3]
    whole = plan["measurements"][1]["operations"]
    assert local[1]["operations"] == pytest.approx(1.5 * whole)
    assert "for 2 models at a time" in " ".join(call(*args, "--dry-run").out.split())
    refused = call("compare", tiny_llama, tiny_llama, "--local", "--dry-run")
    assert refused.code == 2
    assert "--local has no effect without --elementwise" in refused.err


def test_a_side_that_is_measured_already(call: Any, tiny_llama: Path, text_file: Path) -> None:
    call("run", tiny_llama, "--text", text_file, "-o", "mine", "--no-figures", "--quiet")
    plan = json.loads(call("compare", "mine", "demo", "--dry-run", "--json").out)
    assert plan["ready"] == ["mine"]
    assert [one["side"] for one in plan["measurements"]] == ["B"]
    assert "mine is measured already" in call("compare", "mine", "demo", "--dry-run").out


def test_each_process_has_a_share_of_the_batches(
    tiny_llama: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"text": [str(text_file)] * 3, "out": "x", "batch_size": 1, "max_length": 16}
    found = {}
    for size in (1, 3):
        monkeypatch.setattr(processes, "_world", processes.World(rank=0, size=size))
        found[size] = dry_run(run_study(str(tiny_llama), flags, None)).as_dict()
    assert [one["processes"] for one in found.values()] == [1, 3]
    assert found[1]["measurements"][0]["text"] == found[3]["measurements"][0]["text"]
    assert found[1]["memory_bytes"] == found[3]["memory_bytes"]


def test_no_time_is_estimated(call: Any, tiny_llama: Path, text_file: Path) -> None:
    args = ["run", tiny_llama, "--text", text_file, "--dry-run"]
    plan = json.loads(call(*args, "--json").out)
    assert plan["schema_version"] == 3
    assert "seconds" not in plan
    assert "seconds" not in plan["measurements"][0]
    assert not re.search(r"\d (s|min|h)\b", call(*args).out)


# What is printed ---------------------------------------------------------------------------


def test_the_table_fits_into_80_columns(call: Any, tiny_llama: Path, text_file: Path) -> None:
    done = call("run", tiny_llama, "--text", text_file, "--dry-run", "--out", "some/where")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [line[:10].strip() for line in lines if line[:10].strip()]
    assert words[2:] == [*("reads", "observes", "ARM", "text", "passes", "memory", "total")]
    text = done.out
    assert "dry run, no weights loaded" in text
    assert re.search(r"reads +\d+ KB of model\.safetensors", text)
    assert "act in layers 0-1" in text
    assert "in layer 0\n" in text
    assert re.search(r"MB of memory and [\d.]+ [MG]B for libraries", text)
    assert re.search(r"[KM]B in some/where", text)
    assert not Path("some").exists()


def test_quiet_prints_the_folder(call: Any, tiny_llama: Path, text_file: Path) -> None:
    done = call("run", tiny_llama, "--text", text_file, "-o", "there", "--dry-run", "--quiet")
    assert (done.code, done.out, done.err) == (0, "there\n", "")


def test_too_little_memory_is_a_warning(
    call: Any, tiny_llama: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distviz.models.free_bytes", lambda _: 1_000_000)
    done = call("run", tiny_llama, "--text", text_file, "--dry-run", "--no-stream")
    assert re.search(r"warning: \d\.\d GB of memory are needed, 0\.0 GB are free", done.err)


# What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "7"], "layer 7 does not exist"),
        (["--arm-layers", "0,9"], "--arm-layers.*layer 9 does not exist"),
        (["--sites", "actt"], "unknown site 'actt'"),
        (["--sites", "module:nothing*"], "matches no module"),
        (["--text", "nowhere.txt"], "there is no such file"),
        (["--c", "-1"], "c is -1"),
        (["--dtype", "fp33"], "fp33"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
        (["--max-length", "1"], "--max-length"),
        (["--out", "taken"], "taken"),
    ],
)
def test_the_same_is_refused(
    flags: list[str], message: str, call: Any, tiny_llama: Path, text_file: Path
) -> None:
    Path("taken").mkdir()
    (Path("taken") / "file").touch()
    done = call("run", tiny_llama, "--text", text_file, *flags, "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert 1 <= len(done.complaint()) <= 2
    assert re.search(message, "\n".join(done.complaint())), done.complaint()


def test_damaged_weights_are_refused(tiny_llama: Path, text_file: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text())
    (tiny_llama / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))
    flags = {"text": [str(text_file)]}
    with pytest.raises(RequestError, match="contradicts its config"):
        dry_run(run_study(str(tiny_llama), flags, None))
    apart = {"elementwise": False, "local": False}
    with pytest.raises(RequestError, match="contradicts its config"):
        dry_run(compare_study("demo", str(tiny_llama), "before", None, {}, apart, flags, None))
    with pytest.raises(RequestError, match="contradicts its config"):
        dry_run(filler_study(str(tiny_llama), None, flags, None))
    (tiny_llama / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(RequestError, match="is damaged"):
        dry_run(run_study(str(tiny_llama), flags, None))
