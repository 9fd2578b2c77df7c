"""How a result was made: settings, model, text, versions, and the command that repeats it."""

from __future__ import annotations

from typing import Any

from distviz.reports.page import Block, Command, Facts, Fold, Section

__all__ = ["provenance"]

_GROUPS = ("model", "text", "text_a", "text_b", "model_a", "model_b", "arm", "versions", "seconds")
_PLACE = ("created", "device", "dtype", "threads", "schema_version")


def provenance(manifest: dict[str, Any], command: str) -> Section:
    """Return the last section: the command, and everything the manifest says."""
    blocks: list[Block] = [Command(command)] if command else []
    pairs = [(name.replace("_", " "), _said(manifest[name])) for name in _PLACE if name in manifest]
    blocks.append(Facts(pairs))
    for name in (*_GROUPS, "settings", "asked"):
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
