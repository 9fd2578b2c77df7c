"""Batches streamed together: the numbers of plain runs, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.streamed_runs import assert_equal, run_texts


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "gemma3_text", "gpt2", "phi", "mixtral", "minicpm3", "bert", "t5"]
)
def test_streamed_numbers_are_those_of_a_plain_run(
    kind: str, memory: int | None, folders: Any
) -> None:
    sites = "act,residual" if kind in ("mixtral", "t5") else "gate,act,down,residual"
    plain = run_texts(folders(kind), sites=sites, stream=False)
    assert_equal(plain, run_texts(folders(kind), sites=sites, stream=True, stream_memory=memory))


@pytest.mark.parametrize(
    ("kind", "at", "redistribution"),
    [
        ("llama", "product,residual", "quantize:nvfp4"),
        ("gpt2", "q,attention", "threshold:0.1"),
        ("mixtral", "product", "quantize:int8-token"),
    ],
)
def test_other_sites_change_as_in_a_plain_run(
    kind: str, at: str, redistribution: str, folders: Any
) -> None:
    asked = {"at": at, "redistribution": redistribution}
    plain = run_texts(folders(kind), stream=False, **asked)
    assert plain.manifest["effect"]["kl"] > 0
    assert_equal(plain, run_texts(folders(kind), stream=True, **asked))


def test_counts_are_the_same_file(folders: Any, tmp_path: Path) -> None:
    folder = folders("llama", "bfloat16")
    run_texts(folder, stream=False).save(tmp_path / "plain")
    run_texts(folder, stream=True).save(tmp_path / "streamed")
    plain, streamed = (tmp_path / name / "counts.parquet" for name in ("plain", "streamed"))
    assert plain.read_bytes() == streamed.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"arm_layers": "none"},
        {"ripple": False, "layers": "0,2"},
        {"ripple": False, "layers": "all", "arm_layers": "none"},
        {"sites": "act,module:*embed_tokens,module:model.norm,module:*.o_proj"},
        {"dtype": "bf16", "classes": "all", "skip_special": True},
        {"max_length": 512, "batch_size": 1},
    ],
)
def test_whatever_is_asked_for(options: dict[str, Any], folders: Any) -> None:
    folder = folders("llama")
    assert_equal(
        run_texts(folder, stream=False, **options), run_texts(folder, stream=True, **options)
    )
