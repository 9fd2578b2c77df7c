"""What an inspection finds, against the loaded demo."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from distviz.errors import RequestError
from distviz.models.open import open_model
from distviz.studies.inspection import inspect
from tests.support.tiny_gguf import tiny_hybrid


def test_points_and_widths_are_those_of_the_loaded_model(demo_folder: Any) -> None:
    opened = open_model(str(demo_folder), device="cpu")
    found = inspect(None, 2)
    assert found.points == [point for mlp in opened.mlps for point in mlp.points]
    assert [mlp.layer for mlp in found.mlps] == [2]
    assert found.stacks == {"decoder": 6}
    assert found.alike == [0, 1, 2, 3, 4, 5]
    assert found.has_rope
    config: Any = opened.model.config
    widths = {point.site: width for point, width in found.widths.items()}
    inner = ("gate", "act", "up", "product")
    assert {widths[site] for site in inner} == {config.intermediate_size}
    assert {widths[site] for site in ("down", "residual")} == {config.hidden_size}
    listed = found.as_dict()["points"]
    assert [(row["layer"], row["site"], row["module"]) for row in listed] == [
        (point.layer, point.site, point.module) for point in found.points
    ]


def test_a_layer_that_does_not_exist() -> None:
    with pytest.raises(RequestError, match="--layer 6: there is no such layer") as caught:
        inspect(None, 6)
    assert "this model has 6 layers" in str(caught.value)


def test_nothing_of_transformers_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hybrid"
    tiny_hybrid("qwen3_5_text").config.save_pretrained(folder)
    logging = importlib.import_module("transformers.utils.logging")
    logging.warning_once.cache_clear()
    assert inspect(str(folder)).order is not None
    assert capfd.readouterr() == ("", "")
