"""Fetch what is needed of a hub model, and say plainly why it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distviz.errors import RequestError

__all__ = ["download"]


def download(source: str, revision: str | None, *, allow_pickle: bool, with_weights: bool) -> Path:
    """Fetch what is needed of a hub model into the local cache, and return its folder."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.py", "*.jinja"]
    if with_weights:
        wanted.append("*.safetensors")
    try:
        folder = Path(_fetch(snapshot_download, source, revision, wanted))
        if with_weights and allow_pickle and not any(folder.glob("*.safetensors")):
            folder = Path(_fetch(snapshot_download, source, revision, ["pytorch_model*"]))
    except Exception as error:  # the hub client's errors come from several packages
        raise _unreachable(source, revision, error) from error
    return folder


def _fetch(download: Any, source: str, revision: str | None, wanted: list[str]) -> str:
    # Weights in subfolders and other spellings of the same weights are never read.
    other = ["*/*", "consolidated*", "*.fp16.*", "*.fp32.*"]
    return str(download(source, revision=revision, allow_patterns=wanted, ignore_patterns=other))


def _unreachable(source: str, revision: str | None, error: Exception) -> RequestError:
    kind = type(error).__name__
    at = f" at revision '{revision}'" if revision else ""
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"):
        return RequestError(
            f"MODEL '{source}'{at} is neither a folder here nor a model on the hub",
            "check the spelling; a private model needs `hf auth login`",
        )
    if kind == "GatedRepoError":
        return RequestError(
            f"MODEL '{source}' is gated on the hub", "accept its terms there, then `hf auth login`"
        )
    return RequestError(
        f"MODEL '{source}'{at} is no folder here, not in the local cache, "
        f"and the hub cannot be reached ({kind})",
        "give a local folder or a .gguf file, or go online",
    )
