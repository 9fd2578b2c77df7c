"""`distviz filler` on the demo: against plain hooks over own tokens, and as a command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distviz import collect, fillers
from distviz.config import RunSettings
from distviz.corpus import Document, Filler, read_documents, tokenize
from distviz.errors import RequestError
from distviz.progress import Progress

PROMPTS = [
    Document(str(number), system="You add numbers.", question=f"What is {number} + {number + 3}?")
    for number in range(9)
]


@pytest.fixture(scope="module")
def opened() -> Any:
    return collect.open_from(RunSettings(attn_implementation="eager"), Progress())


def own_ids(opened: Any, document: Document) -> tuple[list[int], list[int]]:
    encode = opened.tokenizer
    return tuple(
        encode(part, add_special_tokens=False)["input_ids"]
        for part in (document.system, document.question)
    )


def captured(opened: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return layer 0's activations (tokens, channels) and attention (heads, queries, keys)."""
    kept: dict[str, Any] = {}
    layer = opened.model.model.layers[0]
    hooks = [
        layer.mlp.act_fn.register_forward_hook(lambda _m, _a, out: kept.update(act=out)),
        layer.self_attn.register_forward_hook(lambda _m, _a, out: kept.update(weights=out[1])),
    ]
    try:
        with torch.no_grad():
            opened.model(torch.tensor([ids]))
    finally:
        for hook in hooks:
            hook.remove()
    return kept["act"][0].double().numpy(), kept["weights"][0].double().numpy()


def test_changes_and_attention_against_plain_hooks(opened: Any) -> None:
    settings = RunSettings(layers="0", filler="/", filler_position="between", batch_size=1)
    study = fillers.study_filler(opened, PROMPTS, settings, [5], Progress())
    changes: dict[str, list[float]] = {"log_l2_ratio": [], "log_variance_ratio": []}
    kept = []
    prefix = opened.tokenizer("a")["input_ids"][:1]
    slash = opened.tokenizer("/", add_special_tokens=False)["input_ids"] * 5
    for document in PROMPTS:
        first, second = own_ids(opened, document)
        plain, _ = captured(opened, prefix + first + second)
        start = len(prefix) + len(first)
        mixed, weights = captured(opened, prefix + first + slash + second)
        own = np.r_[0:start, start + len(slash) : len(mixed)]
        changes["log_l2_ratio"].append(np.log(np.linalg.norm(mixed[own]) / np.linalg.norm(plain)))
        changes["log_variance_ratio"].append(np.log(mixed[own].var() / plain.var()))
        behind = np.arange(start + len(slash), len(mixed))
        kept.append(weights.mean(0)[behind][:, own].sum(1).mean())
    table = study.table.set_index("quantity")
    for quantity, values in changes.items():
        assert table.loc[quantity, "estimate"] == pytest.approx(np.mean(values), rel=1e-6)
        assert table.loc[quantity, "documents"] == len(PROMPTS)
    shares = study.attention.set_index("filler_count")["attention_kept"]
    assert shares[0] == pytest.approx(1.0, abs=1e-2)  # bf16 weights do not add up to 1 exactly
    assert shares[5] == pytest.approx(np.mean(kept), rel=1e-6)


def test_every_kind_keeps_the_prompts_own_tokens(opened: Any) -> None:
    plain = tokenize(PROMPTS, opened.tokenizer)
    for kind in ("repeat", "random", "words"):
        for position in ("start", "between", "end", "random"):
            filler = Filler("/", 7, position, 0, kind)
            corpus = tokenize(PROMPTS, opened.tokenizer, filler=filler)
            for without, window in zip(plain.windows, corpus.windows, strict=True):
                assert window.own is not None
                assert window.ids[window.own].tolist() == without.ids.tolist()
                assert (~window.own).sum() >= 7


def test_random_fillers_differ_by_document_and_not_by_run(opened: Any) -> None:
    filler = Filler("", 6, "between", 3, "random")
    first, again, other = (filler.tokens(opened.tokenizer, number) for number in (0, 0, 1))
    assert first == again != other
    assert not set(first) & set(opened.tokenizer.all_special_ids)


def test_a_prompt_that_does_not_fit_is_named(opened: Any) -> None:
    settings = RunSettings(layers="0", max_length=20)
    with pytest.raises(RequestError, match=r"prompt '0' with 30 filler tokens is longer"):
        fillers.study_filler(opened, PROMPTS, settings, [30], Progress())


def test_embedded_prompts() -> None:
    prompts = fillers.read_prompts([])
    assert len(prompts) == 24
    assert all(prompt.is_prompt for prompt in prompts)
    assert len({prompt.question for prompt in prompts}) == 24


def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"system": p.system, "question": p.question}) for p in PROMPTS]
    text.write_text("\n".join(lines))
    folder = tmp_path / "study"
    model = Path(collect.__file__).parent / "demo"
    command = [sys.executable, "-m", "distviz", "filler", str(model), "--text", str(text)]
    command += ["--counts", "0,4,8", "--layers", "0-1", "--out", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == [0, 4, 8]
    table = pd.read_csv(folder / "filler.csv")
    assert set(table["filler_count"]) == {4, 8}
    assert len(table) == 2 * 2 * 5
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "filler_004_act.png", "filler_008_act.png", "by_count_layer_000_act.png",
    }  # fmt: skip
    assert read_documents([folder / "count_000" / "documents.jsonl"])[0].question


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--counts", "a,b"], "is not a list of numbers"),
        (["--counts", "0"], "at least one number above 0"),
        (["--counts", "-3,5"], "none below"),
        (["--filler-kind", "x"], "filler_kind|filler-kind"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, flags: list[str], message: str) -> None:
    model = Path(collect.__file__).parent / "demo"
    command = [sys.executable, "-m", "distviz", "filler", str(model), *flags]
    command += ["--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert re.search(message, done.stderr)
    assert not list(tmp_path.iterdir())
