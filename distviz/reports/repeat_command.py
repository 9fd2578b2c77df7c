"""Commands that repeat a result, with a file of the settings that have no option."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from distviz.arm import why_no_effect
from distviz.option import Option, code_in
from distviz.parsing import exact, exact_percentage
from distviz.settings import OPTIONS, SIDE_B, LayerSettings, names_affecting

if TYPE_CHECKING:
    from distviz.results import Allocation, Comparison, FillerStudy, Sweep, WhatIf

_SETTINGS_FILE = "distviz-settings.toml"
_END = "END"
_CODE = "code that is not part of distviz will run; read it first"
_OMITTED = (None, "before", "", 0)
"""Values of the options of ``compare`` that are not written."""
_NOT_TYPED = ("model", "text", *names_affecting("figures", "nothing"))
"""Settings written in another way, or without effect on the results."""


def run_command(manifest: dict[str, Any], texts: str | None) -> str:
    """Return the command that repeats a run; empty if its settings are unknown.

    ``texts`` is the file of its documents, None if they were not saved.
    """
    settings = manifest.get("settings") or {}
    return _command("run", settings, texts, []) if settings else ""


def filler_command(study: FillerStudy, texts: str | None) -> str:
    """Return the command that repeats a filler study; ``texts`` as of `run_command`."""
    # The run without filler has the settings that all counts share.
    settings = dict(study.runs[0].manifest.get("settings") or {})
    if not settings:
        return ""
    for name in ("arm_layers", "classes", "filler_count"):  # the study's own
        settings.pop(name, None)
    counts = ",".join(map(str, study.manifest["counts"]))
    return _command("filler", settings, texts, [f"--counts {counts}"])


def sweep_command(sweep: Sweep) -> str:
    """Return the command that repeats a sweep; empty if its settings are unknown."""
    manifest = sweep.manifest
    settings, grid = manifest.get("settings") or {}, manifest.get("grid")
    if not settings or grid is None:
        return ""
    words = []
    for name, value in grid.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        words += [_typed(name, str(one)) for one in values]
    words += ["--by-layer"] * sweep.is_by_layer
    if len(manifest.get("seeds") or [0]) > 1:
        words.append(_typed("seeds", len(manifest["seeds"])))
    words.append(_typed("budget_kl", sweep.budget_kl))
    return _command("sweep", settings, None, words)


def allocation_command(found: Allocation) -> str:
    """Return the command that repeats an allocation; empty if its settings are unknown."""
    settings, asked = found.manifest.get("settings") or {}, found.manifest["asked"]
    if not settings:
        return ""
    options = {"at": found.manifest["at"]} | asked | {"budget_kl": found.manifest.get("budget_kl")}
    words = [_typed(name, value) for name, value in options.items() if value is not None]
    own = {name: value for name, value in settings.items() if name not in ("at", "sites")}
    return _command("sweep", own, None, words)


def whatif_command(results: WhatIf) -> str:
    """Return the command that repeats what-if results; empty if the run's folder is unknown."""
    options = dict(results.manifest.get("asked") or {})
    run = options.pop("run", None)
    if run is None:
        return ""
    if isinstance(options.get("percentile"), float):
        options["percentile"] = exact_percentage(options["percentile"])
    words = [_typed(name, value) for name, value in options.items() if value is not None]
    return " ".join(["distviz whatif", _argument(run), *words])


def compare_command(comparison: Comparison, folder: str) -> str:
    """Return the command that makes a comparison again.

    It measures both models again if both were measured for it, and B alone if an option held for
    it; otherwise it compares the runs in the folder.
    """
    if not folder:
        return ""
    manifest, runs = comparison.manifest, (comparison.a, comparison.b)
    options = {name: manifest.get(name) for name in ("phase_a", "phase_b")}
    first, second = (dict(run.manifest.get("settings") or {}) for run in runs)
    measured, model = manifest.get("measured"), second.get("model")
    if measured == ["a", "b"] and first.get("model") and model and _is_alike(first, second):
        texts = f"{folder}/a/documents.jsonl" if comparison.a.texts is not None else None
        own = {name: value for name, value in _of_b(second).items() if value != first.get(name[2:])}
        options |= _by_value(manifest.get("elementwise") or {}, first)
        line = _command("compare", first, texts, _words(options, own), [_argument(model)])
        return _with_note(line, own)
    sides, own = [_argument(f"{folder}/{side}") for side in "ab"], {}
    if model and (given := manifest.get("of_b")):
        sides[1] = _argument(model)
        own = {name: value for name, value in _of_b(second).items() if name in given}
    options |= {name: ",".join(map(str, manifest.get(name) or ())) for name in ("layers", "sites")}
    options["seed"] = manifest.get("seed")
    return _with_note(" ".join(["distviz compare", *sides, *_words(options, own)]), own)


def _by_value(note: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a comparison value by value.

    Without ``--sites`` it takes more sites than the measurement, so these are written if given.
    """
    default = OPTIONS["sites"].default
    is_given = note.get("sites") == [default] == [settings.get("sites", default)]
    return {"elementwise": bool(note), "local": bool(note.get("local"))} | (
        {"sites": default} if is_given else {}
    )


def _of_b(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of B by the options that hold for it alone."""
    return {name: settings.get(name.removeprefix("b_")) for name in SIDE_B}


def _is_alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether options for B alone can express how the settings of two sides differ.

    Sets what the study sets itself back to its default.
    """
    for settings in (first, second):
        settings["classes"] = settings["layer"] = None
    second["layers"] = first.get("layers")
    names = {*first, *second} - {name.removeprefix("b_") for name in SIDE_B} - {"model"}
    own = _of_b(second)
    return all(first.get(name) == second.get(name) for name in names) and all(
        value is not None or first.get(name.removeprefix("b_")) is None
        for name, value in own.items()
    )


def _words(options: dict[str, Any], of_b: dict[str, Any]) -> list[str]:
    words = [_typed(name, value) for name, value in options.items() if value not in _OMITTED]
    given = {name: value for name, value in of_b.items() if not (value is None or value is False)}
    return words + [_typed(name, SIDE_B[name].unmistakable(v)) for name, v in given.items()]


def _with_note(text: str, options: dict[str, Any]) -> str:
    """Say before a command which of its options for B let code run."""
    codes = code_in(options, SIDE_B)
    return _note(codes, SIDE_B, text) if codes else text


def _note(codes: dict[str, Any], records: Mapping[str, Option], text: str) -> str:
    return f"# {', '.join(records[name].spellings[0] for name in codes)}: {_CODE}\n{text}"


def _command(
    command: str,
    settings: dict[str, Any],
    texts: str | None,
    words: Sequence[str],
    others: Sequence[str] = (),
) -> str:
    """Return a measuring command, after a file of the settings that it has no option for.

    ``others`` are arguments after the model.
    """
    changed = dict(_changed(settings, command))
    named, reading = settings.get("text") or [], changed.keys() & {*names_affecting("text")}
    if texts is not None and (named or reading):
        named = [texts]  # the documents as they were read
        changed = {name: value for name, value in changed.items() if name not in reading}
    # A file cannot ask for code, see `distviz.option.refuse_code`.
    codes = code_in(changed, OPTIONS)
    filed = {
        name: value
        for name, value in changed.items()
        if command not in OPTIONS[name].commands and name not in codes
    }
    layer = settings.get("layer")
    line = [f"distviz {command}"]
    if layer is not None:
        line.append(_SETTINGS_FILE)
    elif settings.get("model"):
        line.append(_argument(settings["model"]))
    line += others
    if filed and layer is None:
        line.append(f"--config {_SETTINGS_FILE}")
    line += [f"--text {_argument(name)}" for name in named]
    line += [
        _typed(name, value) for name, value in changed.items() if command in OPTIONS[name].commands
    ]
    text = " ".join([*line, *words])
    if codes:
        text = _note(codes, OPTIONS, text)
    if layer is None and not filed:
        return text
    lines = [*_toml(filed), *(["[layer]", *_toml(_layer_fields(layer))] if layer else [])]
    return "\n".join([f"cat > {_SETTINGS_FILE} <<'{_END}'", *lines, _END, text])


def _changed(settings: dict[str, Any], command: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are not the default and have an effect."""
    defaults = {name: option.default for name, option in OPTIONS.items()}
    defaults["sites"] = settings.get("at") or defaults["at"]
    whole = SimpleNamespace(**defaults | settings | {"layer": None})
    for name, option in OPTIONS.items():
        value = settings.get(name)
        if name in _NOT_TYPED or value is None or value == defaults[name]:
            continue
        if not why_no_effect(option, whole, command):
            yield name, option.unmistakable(value)


def _layer_fields(layer: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(LayerSettings)]
    return {name: layer[name] for name in known if layer.get(name) not in (None, [], {})}


def _argument(value: Any) -> str:
    """Quote an argument; it may not be taken for an option (- alone is standard input)."""
    text = str(value)
    return shlex.quote(f"./{text}" if text.startswith("-") and text != "-" else text)


def _typed(name: str, value: Any) -> str:
    # Names come from a folder, too: a shell must not read anything else in them.
    option = shlex.quote(name.replace("_", "-"))
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    text = exact(value)
    # A filler may begin with a hyphen.
    separator = "=" if text.startswith("-") else " "
    return f"--{option}{separator}{shlex.quote(text)}"


def _toml(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name} = {_toml_value(value)}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_quoted(key)} = {_toml_value(one)}" for key, one in value.items())
        return f"{{ {inside} }}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Quote a string; TOML needs the escapes of JSON, and one more character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
