"""How a result was made: settings, model, text, versions, and the command that repeats it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from distviz.config import RunSettings
from distviz.reports.page import Block, Command, Facts, Fold, Section

__all__ = ["provenance", "run_command", "setting_words"]

_NOT_TYPED = frozenset(("model", "text", "out", "force", "figures", "layer"))
_GROUPS = ("model", "text", "text_a", "text_b", "model_a", "model_b", "arm", "versions", "seconds")
_PLACE = ("created", "device", "dtype", "threads", "schema_version")


def provenance(manifest: dict[str, Any], command: str) -> Section:
    """Return the last section: the command, and everything the manifest says."""
    blocks: list[Block] = [Command(command)] if command else []
    pairs = [(name.replace("_", " "), _said(manifest[name])) for name in _PLACE if name in manifest]
    blocks.append(Facts(pairs))
    for name in (*_GROUPS, "settings"):
        found = manifest.get(name)
        if isinstance(found, dict) and found:
            facts = Facts([(key.replace("_", " "), _said(value)) for key, value in found.items()])
            blocks.append(Fold(name.replace("_", " "), [facts]))
    return Section("How this was made", blocks)


def _said(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items())
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    return str(value)


def setting_words(settings: dict[str, Any], skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the flags of the settings that are not the default."""
    for field in dataclasses.fields(RunSettings):
        name = field.name
        if name in _NOT_TYPED | skip or name not in settings or name == "explicit":
            continue
        value = settings[name]
        if value is None or value == field.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{name.replace('_', '-')}"
        else:
            yield f"{flag} {shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"


def run_command(manifest: dict[str, Any], texts: str | None) -> str:
    """Return what to type to measure again; empty where layers were built from a TOML.

    Parameters
    ----------
    manifest
        That of a run.
    texts
        Where its documents are kept; None where they are not.
    """
    settings = manifest.get("settings") or {}
    if settings.get("layer") is not None or not settings:
        return ""
    words = ["distviz run"]
    if settings.get("model"):
        words.append(shlex.quote(str(settings["model"])))
    given = settings.get("text") or []
    if given:
        named = [texts] if texts is not None else given
        words += [f"--text {shlex.quote(str(name))}" for name in named]
    return " ".join([*words, *setting_words(settings)])
