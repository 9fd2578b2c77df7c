"""The command and Python measure the same tokens, whatever template, form of text, start token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.chat_templates import CHAT_TEMPLATES, with_start
from support.commands import Done
from transformers import AutoModelForCausalLM, AutoTokenizer

import distviz
from distviz.results import Run

DEMO = Path(distviz.__file__).parent / "demo"
TEXTS = ["Add two and two.\nThen stop.", "A second text, ümlaut, 10 % off."]
CHATS = [
    {"system": "Be brief.", "question": "What is 2 + 2?"},
    {"messages": [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes."}]},
]


def _checkpoint(folder: Path, template: str, *, adds: bool) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, folder)
    tokenizer = with_start(AutoTokenizer.from_pretrained(DEMO), adds=adds)
    tokenizer.chat_template = CHAT_TEMPLATES[template]
    tokenizer.save_pretrained(folder)
    return folder


def _write(form: str, folder: Path) -> tuple[list[Path], list[Any]]:
    """Return files of a form, and the same documents as they are given in Python."""
    rows = [{"text": text} for text in TEXTS]
    if form == "txt":
        files = [folder / f"{number}.txt" for number in range(len(TEXTS))]
        for file, text in zip(files, TEXTS, strict=True):
            file.write_bytes(text.encode())
        return files, TEXTS
    file = folder / f"rows.{form.removeprefix('chat-')}"
    if form == "JSONL":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif form == "json":
        file.write_text(json.dumps(TEXTS))
    elif form == "csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    elif form == "parquet":
        pd.DataFrame(rows).to_parquet(file)
    else:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in CHATS))
        return [file], CHATS
    return [file], TEXTS


def _reference(folder: Path, form: str) -> torch.Tensor:
    """Return the inputs of layer 0's activation, from a plain forward pass of each document."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    found: list[torch.Tensor] = []
    model.model.layers[0].mlp.act_fn.register_forward_hook(
        lambda _module, _args, out: found.append(out.detach().flatten())
    )
    if form == "chat-jsonl":
        roles = [
            [
                {"role": "system", "content": CHATS[0]["system"]},
                {"role": "user", "content": CHATS[0]["question"]},
            ],
            CHATS[1]["messages"],
        ]
        pieces = [
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=chat[-1]["role"] != "assistant"
            )
            for chat in roles
        ]
    else:
        pieces = TEXTS
    start = tokenizer.bos_token_id
    adds = tokenizer("x").input_ids[0] == start
    for piece in pieces:
        ids = tokenizer(piece, add_special_tokens=False).input_ids
        if adds and ids[0] != start:
            ids = [start, *ids]
        with torch.inference_mode():
            model(torch.tensor([ids]))
    return torch.cat(found)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("form", "template"),
    [(form, "bos") for form in ("txt", "JSONL", "json", "csv", "parquet")]
    + [("chat-jsonl", template) for template in ("bos", "chatml", "gemma")],
)
@pytest.mark.parametrize("adds", [True, False], ids=["adds", "adds-none"])
def test_command_and_python_measure_what_transformers_computes(
    call: Callable[..., Done], tmp_path: Path, template: str, adds: bool, form: str
) -> None:
    folder = _checkpoint(tmp_path / "model", template, adds=adds)
    files, documents = _write(form, tmp_path)
    flags = ["--chat-template"] if form == "chat-jsonl" else []
    given = [part for file in files for part in ("--text", str(file))]
    typed = "--layers 0 --arm-layers none --dtype float32 --batch-size 1 --no-figures --out r"
    done = call("run", folder, *given, *flags, *typed.split())
    assert done.code == 0, done.err
    options: dict[str, Any] = {"layers": "0", "arm_layers": "none", "dtype": "float32"}
    options |= {"batch_size": 1, "chat_template": bool(flags)}
    expected = _reference(folder, form)
    codes = expected.bfloat16().view(torch.int16).numpy().view(np.uint16)
    counts = np.bincount(codes, minlength=65_536)
    for run in (
        Run.load("r"),
        *(distviz.run(folder, text=t, **options) for t in (files, documents)),
    ):
        np.testing.assert_array_equal(run.sketch(0, "act", "before").table, counts)
