"""The estimate of a dry run on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distviz.cli.dry_run import DryRun, Estimate
from distviz.cli.views.dry_run import count, size, summary

MODEL = {"name": "tiny", "architecture": "LlamaForCausalLM", "layers": 4, "parameters": 1.7e9}
ESTIMATE = Estimate(
    model=MODEL | {"dtype": "bfloat16", "device": "cpu"},
    files=[{"name": "a.safetensors", "bytes": 3_000_000}],
    bytes_read=3_000_000,
    layers="0-3",
    sites=["act"],
    points=4,
    arm_layers=[0, 1],
    ripple=False,
    streamed=True,
    reads_all=False,
    text={"documents": 3, "windows": 4, "tokens": 5000, "batches": 2, "truncated": True},
    passes=2.5,
    processes=2,
    operations=3e12,
    memory_bytes={"weights": 3_000_000, "logits": 0, "hidden_states": 5000, "total": 3_005_000},
    library_bytes=550_000_000,
    disk_bytes=70_000,
    temporary_bytes=0,
    spilled_bytes=0,
    notes=[],
)


def shown(found: DryRun, **options: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80, **options)
    console.print(summary(found, console))
    return out.getvalue()


def test_every_line() -> None:
    found = DryRun("compare", Path("out"), {"B": ESTIMATE}, ["mine"], 4_000_000_000)
    assert [line.rstrip() for line in shown(found).splitlines()] == [
        "distviz compare: dry run, no weights loaded, nothing measured",
        "",
        "B: tiny · LlamaForCausalLM · 4 layers · 1.7 B parameters · bfloat16 · cpu",
        "reads     3.0 MB of a.safetensors, what the measurement needs",
        "observes  act in layers 0-3",
        "ARM       in layers 0-1, not passed on to later layers",
        "text      3 documents, 4 windows, 5,000 tokens in 2 batches, cut by --max-tokens",
        "processes 2, each with its own share of the batches",
        "passes    2.5, layer by layer; 3 TFLOP",
        "memory    weights 3.0 MB, hidden states 5.0 KB",
        "",
        "ready     mine is measured already",
        "total     3.0 MB of memory and 550 MB for libraries in each of 2 processes",
        "          (4.0 GB are free)",
        "          70 KB in out",
    ]


def test_random_weights_are_not_read() -> None:
    built = replace(ESTIMATE, files=[], bytes_read=0)
    assert "nothing: random weights" in shown(DryRun("run", Path("out"), {"": built}, [], 1))


def test_it_is_ascii_where_the_terminal_is() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, width=80)
    console.print(summary(DryRun("run", Path("out"), {"": ESTIMATE}, [], 1), console))
    out.flush()


@pytest.mark.parametrize(
    ("function", "number", "text"),
    [
        (size, 0, "0 bytes"),
        (size, 999_999, "1.0 MB"),
        (size, 12_345_678, "12 MB"),
        (size, 123e9, "123 GB"),
        (count, 134_515_008, "135 M"),
        (count, 1.71e9, "1.7 B"),
    ],
)
def test_numbers_in_words(function: Any, number: float, text: str) -> None:
    assert function(number) == text
