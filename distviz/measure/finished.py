"""Whether a finished result was measured on what its inputs hold now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distviz.arm import ARM, make_redistribution
from distviz.data import Document, fingerprint_of_entries
from distviz.errors import RequestError
from distviz.measure.opening import documents_of
from distviz.models import locate
from distviz.settings import RunSettings


def refuse_changed(
    manifest: Mapping[str, Any],
    settings: RunSettings,
    where: Path | str,
    documents: Sequence[Document] | None = None,
    redistributions: Sequence[str] | None = None,
) -> None:
    """Refuse to take a finished result for that of a request whose files have changed since.

    Parameters
    ----------
    manifest, where
        Of a result that was measured with the same settings, and its folder.
    settings, documents
        What is asked for; the documents are by default those of the settings.
    redistributions
        Those of a sweep; by default that of the settings.

    Raises
    ------
    RequestError
        If weights, configuration, text, or a file or code that a redistribution takes have another
        content than they had; the message names which.
    """
    model, sample = (manifest.get(name) or {} for name in ("model", "text"))
    known = {"model fingerprint": model.get("fingerprint"), "text": sample.get("sha256")}
    known |= manifest.get("contents") or {}
    now = contents(redistributions or [settings.redistribution], settings.arm())
    if settings.layer is None:
        now["model fingerprint"] = _fingerprint(settings)
        if documents is None and "-" not in settings.text:  # a pipe is read once
            documents = documents_of(settings)
        if documents is not None:
            now["text"] = fingerprint_of_entries(one.as_dict() for one in documents)
    for name, value in now.items():
        if known.get(name) not in (None, value):
            raise RequestError(
                f"{where} is complete, but it was measured on other input: {name} differs",
                "give another --out, or --force to measure again and replace it",
            )


def contents(redistributions: Sequence[str], arm: ARM) -> dict[str, str]:
    """Return fingerprints of the files and code that redistributions take, by their names."""
    found = {name: make_redistribution(name, arm).fingerprint() for name in redistributions}
    return {f"content of {name}": digest for name, digest in found.items() if digest}


def _fingerprint(settings: RunSettings) -> str:
    found = locate(settings.model, revision=settings.revision, allow_pickle=settings.allow_pickle)
    return found.fingerprint
