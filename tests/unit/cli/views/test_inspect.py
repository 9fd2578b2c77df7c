"""The diagram of a layer and the table of architectures."""

from __future__ import annotations

from support.terminal import printed

from distviz.cli.views import inspect as views
from distviz.models.architectures import load_architectures
from distviz.studies import inspect


def test_a_layer_has_every_hook_point_in_its_diagram_and_table() -> None:
    lines = printed(views.inspection, inspect(None, 0)).splitlines()
    assert lines[0] == "LlamaForCausalLM, decoder layer 0 (first)"
    assert lines[1] == "6 decoder layers; 5 others have the same structure"
    for site in ("gate", "act", "up", "product", "down", "residual"):
        assert any(f"[{site}]" in line for line in lines)
        assert any(line.startswith(f" {site} ") for line in lines)
    assert printed(views.inspection, inspect(None, 0), encoding="ascii").isascii()


def test_architectures_are_listed_with_reasons() -> None:
    known = load_architectures()
    text = printed(lambda found, _: views.architectures(found), known, width=200)
    assert text.startswith("causal language models: ")
    assert all(row.type in text for row in known.group(causal=True))
