"""What cannot be compared is refused before any weight is read, with what still can be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import Done
from support.texts import text_files
from support.tiny_models import save_tiny, save_tiny_llama

import distviz
from distviz.errors import RequestError
from distviz.settings import RunSettings
from distviz.sites import HookPoint
from distviz.studies.alignment import UnalignedError, partners

pytestmark = pytest.mark.usefixtures("without_weights")


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight can be read."""

    def read(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("distviz.models.open._open_checkpoint", read)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> dict[str, Path]:
    """Small models by what is different in them."""
    place = tmp_path_factory.mktemp("models")
    found = {
        "two layers": save_tiny_llama(place / "two", demo_folder),
        "three layers": save_tiny_llama(place / "three", demo_folder, num_hidden_layers=3),
        "narrow": save_tiny_llama(place / "narrow", demo_folder, hidden_size=16),
        "pruned": save_tiny_llama(place / "pruned", demo_folder, intermediate_size=40),
        "words": save_tiny_llama(place / "words", demo_folder),
        "encoder": save_tiny("bert", place / "encoder", demo_folder),
        "llama": save_tiny("llama", place / "llama", demo_folder),
        "experts": save_tiny("mixtral", place / "experts", demo_folder),
        "not gated": save_tiny("phi", place / "phi", demo_folder),
    }
    path = found["words"] / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:500]
    path.write_text(json.dumps(tokenizer), "utf-8")
    return found


def _compare(a: Path, b: Path, **options: Any) -> None:
    own = {name: options.pop(name) for name in ("layers", "sites", "stream") if name in options}
    with text_files() as files:
        own |= {"text": files}
        settings = RunSettings(device="cpu", **own)
        distviz.compare(a, b, settings=settings, given=frozenset(own), **options)


@pytest.mark.parametrize(
    ("a", "b", "options", "message", "hint"),
    [
        ("two layers", "words", {}, "different tokens", "loss of each side"),
        ("two layers", "three layers", {}, "A has 2 layers in its decoder, B has 3", "relative"),
        ("two layers", "narrow", {"local": True}, "width 32, B of width 16", "without it"),
        ("two layers", "narrow", {"sites": "residual"}, "32 channels in A and 16 in B", "product"),
        ("two layers", "pruned", {"sites": "product"}, "48 channels", "residual, attention"),
        ("llama", "experts", {"sites": "product"}, "routed", "residual, attention"),
    ],
)
def test_values_that_have_no_counterpart(
    models: dict[str, Path], a: str, b: str, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UnalignedError, match=message) as found:
        _compare(models[a], models[b], elementwise=True, **options)
    assert hint in found.value.hint


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ("llama", "encoder", {}, "no site and phase in common"),
        ("llama", "not gated", {"sites": "up"}, "side B: .*up"),
        ("not gated", "llama", {"sites": "up"}, "side A: .*up"),
        ("two layers", "llama", {"layers": "3"}, "side A: .*layer 3 does not exist"),
        ("llama", "llama", {"b_arm_layers": "4"}, "side B: .*layer 4 does not exist"),
        ("llama", "llama", {"stream": True, "b_device_map": "cpu"}, "side B: .*streamed"),
        ("llama", "llama", {"b_attn_implementation": "nothing"}, "side B: .*nothing"),
        ("llama", "no/such/model", {}, "no/such/model"),
    ],
)
def test_a_side_that_cannot_be_measured_is_named_before_the_other_is(
    models: dict[str, Path], a: str, b: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        _compare(models[a], models.get(b, Path(b)), **options)


def test_layers_of_a_run_that_a_model_has_not(demo_run: Any, models: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="no site and phase in common"):
        distviz.compare(demo_run, models["encoder"], settings=RunSettings(device="cpu"))


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("b", "options", "removed", "added"),
    [
        ("three layers", ["--local", "--elementwise"], ["--local", "--elementwise"], []),
        ("narrow", ["--elementwise", "--local"], ["--local"], []),
        (
            "pruned",
            ["--elementwise", "--sites", "product"],
            ["--sites", "product"],
            ["--sites", "residual,attention"],
        ),
    ],
)
def test_the_command_names_what_can_be_done(
    models: dict[str, Path],
    tmp_path: Path,
    call: Callable[..., Done],
    b: str,
    options: list[str],
    removed: list[str],
    added: list[str],
    more: list[str],
) -> None:
    args = ["compare", models["two layers"], models[b], "--out", tmp_path / "out", *options, *more]
    done = call(*args)
    assert done.code == 2
    words = [word for word in map(str, args) if word not in removed] + added
    assert done.err.rstrip().endswith(f": distviz {shlex.join(words)}")
    assert not list(tmp_path.glob("out*"))


def test_modules_of_one_name_are_partners_before_others() -> None:
    def points(*modules: str) -> list[HookPoint]:
        return [HookPoint(0, "decoder", "module:*", name, "output") for name in modules]

    a, b = points("x", "y", "old"), points("new", "y", "x", "more")
    found = {point.module: partner.module for point, partner in partners(a, b).items()}
    assert found == {"new": "old", "y": "y", "x": "x"}
