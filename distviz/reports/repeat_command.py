"""What to type to make a result again: the command, and a file of settings where it needs one."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distviz.settings import OPTIONS, LayerSettings, names_affecting

if TYPE_CHECKING:
    from distviz.results import FillerStudy, Sweep, WhatIf

__all__ = [
    "compare_command",
    "filler_command",
    "run_command",
    "sweep_command",
    "whatif_command",
]

_SETTINGS_FILE = "distviz-settings.toml"
_END = "END"
_NOT_TYPED = ("model", "text", *names_affecting("figures", "nothing"))
"""Written in another way, or without influence on what is measured."""


def run_command(manifest: dict[str, Any], texts: str | None) -> str:
    """Return what to type to measure a run again; empty where its settings are not known.

    Parameters
    ----------
    manifest
        That of the run.
    texts
        Where its documents are kept; None where they are not.
    """
    settings = manifest.get("settings") or {}
    return _command("run", settings, texts, []) if settings else ""


def filler_command(study: FillerStudy, texts: str | None) -> str:
    """Return what to type to study the same fillers again; ``texts`` as of `run_command`."""
    # What every count is measured with stands in the run without filler.
    settings = dict(study.runs[0].manifest.get("settings") or {})
    if not settings:
        return ""
    for name in ("arm_layers", "classes", "filler_count"):  # the study's own
        settings.pop(name, None)
    counts = ",".join(map(str, study.manifest["counts"]))
    return _command("filler", settings, texts, [f"--counts {counts}"])


def sweep_command(sweep: Sweep) -> str:
    """Return what to type to try the same settings again."""
    manifest = sweep.manifest
    settings, grid = manifest.get("settings") or {}, manifest.get("grid")
    if not settings or grid is None:
        return ""
    words = []
    for name, value in grid.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"{_flag(name)} {shlex.quote(str(one))}" for one in values]
    words += ["--by-layer"] * sweep.is_by_layer
    if len(manifest.get("seeds") or [0]) > 1:
        words.append(f"--seeds {len(manifest['seeds'])}")
    words.append(f"--budget-kl {_number(sweep.budget_kl)}")
    return _command("sweep", settings, None, words)


def whatif_command(answers: WhatIf) -> str:
    """Return what to type to ask the same again; empty where the run's place is not known."""
    asked = answers.manifest.get("asked")
    if asked is None:
        return ""
    words = ["distviz whatif", shlex.quote(str(asked["run"]))]
    for name, value in asked.items():
        if name != "run" and value is not None:
            said = _number(value) if isinstance(value, float) else str(value)
            words.append(f"{_flag(name)} {shlex.quote(said)}")
    return " ".join(words)


def compare_command(manifest: dict[str, Any], folder: str) -> str:
    """Return what to type to compare both runs that a folder holds again."""
    if not folder:
        return ""
    sides = " ".join(shlex.quote(f"{folder}/{side}") for side in "ab")
    words = [f"--phase-{s} {manifest.get(f'phase_{s}')}" for s in "ab"]
    words = [one for one in words if not one.endswith((" before", " None"))]
    for name in ("layers", "sites"):
        if manifest.get(name):
            words.append(f"--{name} {shlex.quote(','.join(map(str, manifest[name])))}")
    if manifest.get("seed"):
        words.append(f"--seed {manifest['seed']}")
    return " ".join(["distviz compare", sides, *words])


def _command(
    command: str, settings: dict[str, Any], texts: str | None, words: Sequence[str]
) -> str:
    """Return a command that measures, and before it the file of what has no flag there."""
    changed = dict(_changed(settings))
    filed = {
        name: value for name, value in changed.items() if command not in OPTIONS[name].commands
    }
    layer = settings.get("layer")
    line = [f"distviz {command}"]
    if layer is not None:
        line.append(_SETTINGS_FILE)
    elif settings.get("model"):
        line.append(shlex.quote(str(settings["model"])))
    if filed and layer is None:
        line.append(f"--config {_SETTINGS_FILE}")
    given = settings.get("text") or []
    named = [texts] if given and texts is not None else given
    line += [f"--text {shlex.quote(str(name))}" for name in named]
    line += [_typed(name, value) for name, value in changed.items() if name not in filed]
    text = " ".join([*line, *words])
    if layer is None and not filed:
        return text
    lines = [*_toml(filed), *(["[layer]", *_toml(_layer_fields(layer))] if layer else [])]
    return "\n".join([f"cat > {_SETTINGS_FILE} <<'{_END}'", *lines, _END, text])


def _changed(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are not the default."""
    for name, option in OPTIONS.items():
        value = settings.get(name)
        if name not in _NOT_TYPED and value is not None and value != option.default:
            yield name, value


def _layer_fields(layer: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(LayerSettings)]
    return {name: layer[name] for name in known if layer.get(name) not in (None, [], {})}


def _typed(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return _flag(name) if value else f"--no-{name.replace('_', '-')}"
    said = _number(value) if isinstance(value, float) else str(value)
    # A filler may begin with a hyphen.
    between = "=" if said.startswith("-") else " "
    return f"{_flag(name)}{between}{shlex.quote(said)}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _number(value: float) -> str:
    """Write a number so that it is read as the same one."""
    return repr(float(value)).removesuffix(".0")


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
    """Write a string; JSON's escapes are TOML's, but for one character that JSON leaves bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
