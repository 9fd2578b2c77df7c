"""A resumed measurement refuses inputs that changed meanwhile, whichever file they are in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.tiny_models import edit_config, edit_json

from distviz.measure.resume import CheckpointFolder

if TYPE_CHECKING:
    from support.commands import Done

TEXT = "one two three four five six seven eight nine ten eleven twelve " * 8
QUICK = ("--max-length", "16", "--batch-size", "1", "--no-figures", "--device", "cpu")
FILE = "model.safetensors"
Change = Callable[[], object]


def threshold_table(_: Path) -> tuple[list[str], Change, str]:
    file = Path("t.csv")
    file.write_text("layer,threshold\n0,0.25\n")
    change = partial(file.write_text, "layer,threshold\n0,0.5\n")
    return ["--redistribution", "threshold:t.csv"], change, "content of threshold:t.csv"


def format_table(_: Path) -> tuple[list[str], Change, str]:
    file = Path("f.csv")
    file.write_text("layer,format\n0,int8\n")
    change = partial(file.write_text, "layer,format\n0,int4\n")
    return ["--redistribution", "quantize:f.csv"], change, "content of quantize:f.csv"


def folder_of_a_whatif(_: Path) -> tuple[list[str], Change, str]:
    """Only whether a float32 value counts as its nearest bfloat16 changes."""
    folder = Path("w")
    folder.mkdir()
    row = "sparsity,before,0.5,0,act,0.25"
    (folder / "whatif.csv").write_text(f"question,phase,level,layer,site,threshold\n{row}\n")
    note = folder / "whatif.json"
    note.write_text("{}")
    words = ["--redistribution", "threshold:w@50%"]
    return words, lambda: note.write_text('{"is_rounded": true}'), "content of threshold:w@50%"


def code(_: Path) -> tuple[list[str], Change, str]:
    file = Path("clips.py")
    file.write_text("def clip(x):\n    return x.clamp(max=0.5)\n")
    change = partial(file.write_text, "def clip(x):\n    return x.clamp(max=0.1)\n")
    return ["--redistribution", "clips:clip"], change, "content of clips:clip"


def text(_: Path) -> tuple[list[str], Change, str]:
    return [], lambda: Path("text.txt").write_text(TEXT.replace("one", "two")), "text"


def prompts(_: Path) -> tuple[list[str], Change, str]:
    def write(system: str) -> None:
        rows = [{"system": system, "question": f"What is {n} + 3?"} for n in range(20)]
        Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("Add.")
    return ["--text", "p.jsonl"], lambda: write("Sum."), "text"


def options(_: Path) -> tuple[list[str], Change, str]:
    file = Path("options.toml")
    file.write_text("c = 0.13\n")
    return ["--config", "options.toml"], lambda: file.write_text("c = 0.3\n"), "--c"


def tokenizer(model: Path) -> tuple[list[str], Change, str]:
    """Two words change their ids; the number of tokens stays."""

    def swap(content: dict[str, Any]) -> None:
        known = content["model"]["vocab"]
        known["Ġone"], known["Ġtwo"] = known["Ġtwo"], known["Ġone"]

    return [], lambda: edit_json(model / "tokenizer.json", swap), "tokenized text"


def configuration(model: Path) -> tuple[list[str], Change, str]:
    return [], lambda: edit_config(model, rms_norm_eps=1e-3), "model fingerprint"


def weights(model: Path) -> tuple[list[str], Change, str]:
    return [], lambda: change_middle(model / FILE), "model fingerprint"


def change_middle(file: Path) -> None:
    content = np.fromfile(file, np.uint8)
    content[len(content) // 2 :][:4] ^= 1
    content.tofile(file)


KINDS = [
    threshold_table, format_table, folder_of_a_whatif, code, text, prompts, options, tokenizer,
    configuration, weights,
]  # fmt: skip


@pytest.fixture
def stopped(call: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command that is interrupted when it has saved a state."""
    real = CheckpointFolder.save

    def save(self: CheckpointFolder, *args: Any, **options: Any) -> bool:
        real(self, *args, **options)
        raise KeyboardInterrupt

    def run(*words: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFolder, "save", save)
            done = call(*words, "--save-every", "0")
            assert done.code == 130, done.err

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_input_is_refused_by_name(
    kind: Callable[[Path], tuple[list[str], Change, str]],
    tiny_llama: Path,
    call: Callable[..., Done],
    stopped: Callable[..., None],
) -> None:
    Path("text.txt").write_text(TEXT)
    more, change, name = kind(tiny_llama)
    given = [] if "--text" in more else ["--text", "text.txt"]
    words = ["run", tiny_llama, *given, *QUICK, *more, "--out", "out"]
    stopped(*words)
    change()
    sys.modules.pop("clips", None)
    done = call(*words, "--resume")
    assert done.code == 2, done.err
    message = done.complaint()[0]
    assert "belongs to another measurement" in message
    assert f" {name} " in message


FOUND_AT_ONCE = [kind for kind in KINDS if kind not in (options, tokenizer)]
"""Of a finished result without opening the model; other settings are another request."""


@pytest.mark.parametrize("kind", FOUND_AT_ONCE)
def test_a_finished_result_is_no_answer_for_changed_inputs(
    kind: Callable[[Path], tuple[list[str], Change, str]],
    tiny_llama: Path,
    call: Callable[..., Done],
) -> None:
    Path("text.txt").write_text(TEXT)
    more, change, name = kind(tiny_llama)
    given = [] if "--text" in more else ["--text", "text.txt"]
    words = ["run", tiny_llama, *given, *QUICK, *more, "--out", "out"]
    assert call(*words).code == 0
    again = call(*words, "--resume")
    assert (again.code, "is complete, nothing is left" in again.err) == (0, True)
    change()
    sys.modules.pop("clips", None)
    done = call(*words, "--resume")
    assert done.code == 2, done.err
    assert done.complaint()[0] == (
        f"distviz: out is complete, but it was measured on other input: {name} differs"
    )


@pytest.mark.extended
def test_in_studies(tiny_llama: Path, tiny_saved: Path, call: Callable[..., Done]) -> None:
    """A table in one of the lists of a sweep, model B of a comparison, the prompts of a filler."""
    Path("text.txt").write_text(TEXT)
    Path("t.csv").write_text("layer,threshold\n0,0.25\n")
    prompt = json.dumps({"system": "Add.", "question": "1 + 2?"}) + "\n"
    Path("p.jsonl").write_text(prompt)
    text = ("--text", "text.txt", *QUICK)
    several = ("--redistribution", "threshold,threshold:t.csv", "--c", "0.2")
    fillers = (tiny_llama, "--filler", "/", "--text", "p.jsonl", "--filler-count", "2")
    studies: dict[str, list[Any]] = {
        "content of threshold:t.csv": ["sweep", tiny_llama, *several, *text, "--out", "s"],
        "model fingerprint": ["compare", tiny_saved, tiny_llama, *text, "--out", "c"],
        "text": ["filler", *fillers, "--no-figures", "--device", "cpu", "--out", "f"],
    }
    for words in studies.values():
        assert call(*words).code == 0
        assert "nothing is left" in call(*words, "--resume").err
    Path("t.csv").write_text("layer,threshold\n0,0.5\n")
    Path("p.jsonl").write_text(prompt.replace("Add", "Sum"))
    for name, words in reversed(studies.items()):
        if name == "model fingerprint":
            change_middle(tiny_llama / FILE)
        done = call(*words, "--resume")
        assert done.code == 2, done.err
        assert f"measured on other input: {name} differs" in done.err


@pytest.mark.extended
@pytest.mark.parametrize("part", ["", "values"])
def test_a_stopped_study(
    part: str, tiny_llama: Path, tiny_saved: Path, call: Callable[..., Done], stopped: Any
) -> None:
    """What a sweep lists, and model B of a comparison by value."""
    Path("text.txt").write_text(TEXT)
    Path("t.csv").write_text("layer,threshold\n0,0.25\n")
    text = ("--text", "text.txt", *QUICK, "--out", "out")
    if part:
        words = ["compare", tiny_saved, tiny_llama, "--elementwise", *text]
        name, change = "B: model fingerprint", partial(change_middle, tiny_llama / FILE)
    else:
        words = ["sweep", tiny_llama, "--redistribution", "threshold:t.csv,noise", *text]
        name = "content of threshold:t.csv"
        change = partial(Path("t.csv").write_text, "layer,threshold\n0,0.5\n")
    stopped(*words)
    change()
    done = call(*words, "--resume")
    assert done.code == 2, done.err
    assert f" {name} " in done.complaint()[0]
