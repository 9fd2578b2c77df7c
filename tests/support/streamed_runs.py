"""Runs on a few texts, and the comparison of a streamed one with a plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distviz
from support.equality import same
from support.texts import STREAMED_TEXTS as TEXTS


def run_texts(folder: Path, **options: Any) -> Any:
    chosen = {"max_length": 16, "batch_size": 2, "arm_layers": "0,2", "device": "cpu"}
    chosen |= {"channels": True} | options
    return distviz.run(str(folder), text=TEXTS, **chosen)


def assert_equal(plain: Any, streamed: Any) -> None:
    same(plain, streamed)
    assert plain.manifest["effect"] == streamed.manifest["effect"]
    assert streamed.manifest["model"]["loaded"]["streamed"]
