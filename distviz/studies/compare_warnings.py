"""How the input and the settings of two compared runs differ, in words."""

from __future__ import annotations

from typing import Any

from distviz.results import Run
from distviz.settings import names_affecting
from distviz.studies.compare_sides import built_layers


def _of_run(side: str, run: Run) -> list[str]:
    return [f"{side}: {warning}" for warning in run.stated.get("warnings", [])]


def same_documents(a: Run, b: Run) -> bool:
    """Whether both runs read the same documents."""
    texts = [(run.manifest.get("text") or {}).get("sha256") for run in (a, b)]
    return texts[0] is not None and texts[0] == texts[1]


def same_tokens(a: Run, b: Run) -> bool:
    """Whether the same text became the same tokens, by their number and that of each class."""
    names = ("tokens", "windows", "counted")
    of_text = [(run.manifest.get("text") or {}) for run in (a, b)]
    if not same_documents(a, b) or of_text[0].get("tokens") != of_text[1].get("tokens"):
        return False
    if any(of_text[0].get(name) != of_text[1].get(name) for name in names):
        return True  # --skip-special or --max-length differ; so many tokens agree by no accident
    return bool(a.manifest.get("token_classes") == b.manifest.get("token_classes"))


def _input_name(run: Run) -> str:
    """Return ``text``, or a description of the random input of built layers."""
    layer = built_layers(run)
    if layer is None:
        return "text"
    shape, seed = f"{layer['documents']} × {layer['tokens']}", run.manifest["settings"]["seed"]
    if layer["input"] == "tokens":
        return f"{shape} token ids, seed {seed}"
    width = (run.manifest.get("model") or {}).get("hidden_size")
    of_width = f" of width {width}" if width else ""
    return f"{shape} hidden states{of_width}, scale {layer['scale']:g}, seed {seed}"


def _shown(value: Any) -> str:
    """Return a setting's value as in a TOML; ``none`` where it is not given."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def warnings_of(a: Run, b: Run) -> list[str]:
    """Return the warnings of both runs, and how their input and settings differ."""
    found = [*_of_run("A", a), *_of_run("B", b)]
    if not same_documents(a, b):
        inputs = [_input_name(run) for run in (a, b)]
        named = "" if inputs == ["text"] * 2 else f" (A: {inputs[0]}; B: {inputs[1]})"
        found.append(
            f"the two sides have different {'input' if named else 'texts'}{named}; "
            "documents are compared unpaired"
        )
    elif not same_tokens(a, b):
        found.append("the two sides tokenize the text differently")
    if a.c != b.c:
        found.append(
            f"near-zero shares by document use c = {a.c:g} in A and {b.c:g} in B; "
            "their difference is not tested"
        )
    settings = [run.manifest.get("settings") or {} for run in (a, b)]
    for name in names_affecting("tokens") if bool(built_layers(a)) == bool(built_layers(b)) else ():
        first, second = (own.get(name) for own in settings)
        is_noted = name not in ("batch_size", "seed") and all(name in own for own in settings)
        if is_noted and first != second:
            found.append(f"the sides differ in {name}: {_shown(first)} and {_shown(second)}")
    return found
