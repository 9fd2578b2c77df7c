"""Find a checkpoint and check its files, without torch or transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import struct
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.adapters import Adapter, find_adapter, is_adapter
from distviz.models.folder_kinds import Found, describe_folder
from distviz.models.gguf import GgufError, gguf_end
from distviz.models.json_files import read_json
from distviz.models.safetensors_files import StoredTensor, damaged
from distviz.models.weight_files import find_weights, refused
from distviz.output import counted
from distviz.parsing import check_text
from distviz.results import result_at

if TYPE_CHECKING:
    from collections.abc import Iterable

DEMO = "demo"

_MIB = 1 << 20
_PIECE, _PIECES = 1 << 12, 256
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "vocab.bpe", "spm.model",
)  # fmt: skip
_NO_CONFIG = Found(
    "is not a checkpoint: it has no config.json",
    "give a folder that save_pretrained wrote, a .gguf file, or a hub id",
)
_LENGTH_BYTES = 8
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files exist and are complete.

    Parameters
    ----------
    folder
        Folder of the files; for a hub id, the snapshot in the local cache.
    source
        The request as given; ``"demo"`` for the embedded model.
    name
        Short name for titles and folder names.
    weights
        Files with weights, sorted by name; empty where only the configuration was read.
    gguf
        Name of the GGUF file in `folder`, or ``None``.
    config
        Content of ``config.json``; empty for GGUF, whose header contains it.
    revision
        Commit of a hub model.
    pickled
        Whether the weights are pickle files.
    tensors
        Tensors by the headers of safetensors files; empty for other files.
    adapter
        The adapter, if `source` is one; then `folder`, `weights` and `config` are those of its
        base model.
    notes
        Warnings about the files.
    parsed
        Content of the header of a GGUF, see `distviz.models.gguf_reading`.
    """

    folder: Path
    source: str
    name: str
    weights: tuple[Path, ...] = ()
    gguf: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    pickled: bool = False
    tensors: dict[str, StoredTensor] = field(default_factory=dict, repr=False)
    adapter: Adapter | None = None
    notes: tuple[str, ...] = ()
    parsed: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer: that of the adapter, if it has its own."""
        own = None if self.adapter is None else self.adapter.folder
        return own if own is not None and _has_tokenizer(own) else self.folder

    @property
    def identity(self) -> str:
        """The configuration, and that of the adapter, as text for a fingerprint."""
        configs = [self.config] + ([] if self.adapter is None else [self.adapter.config])
        return "".join(json.dumps(config, sort_keys=True) for config in configs)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file with weights, the adapter's last."""
        own = None if self.adapter is None else self.adapter.weights
        return self.weights if own is None else (*self.weights, own)

    @property
    def fingerprint(self) -> str:
        """A digest of configuration and weights, see `fingerprint`."""
        return fingerprint(self.identity, self.files)

    @property
    def is_quantized(self) -> bool:
        """Whether the configuration declares a quantization."""
        return any(part.get("quantization_config") for part in _config_parts(self.config))


def refuse_opened(given: object, command: str) -> None:
    """Raise RequestError unless a model is given by name or path."""
    if not isinstance(given, str | Path):
        raise RequestError(
            f"distviz.{command} loads models itself, but was given a {type(given).__name__}",
            "give its folder or hub id; distviz.watch observes a loaded model",
        )


def locate(
    source: str | None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    with_weights: bool = True,
) -> Checkpoint:
    """Find a checkpoint and check that its files are complete.

    Only headers are read: safetensors files and GGUF files must have the length that their header
    implies.

    Parameters
    ----------
    source
        ``None`` or ``"demo"`` for the embedded model, a folder, a ``.gguf`` file, or a hub id.
    revision
        Branch, tag or commit; for hub ids only.
    allow_pickle
        Whether weights in pickle files (which can run code) are accepted.
    with_weights
        Whether weights are needed; if not, only the configuration is checked (and, for a hub id,
        downloaded).

    Raises
    ------
    RequestError
        If nothing is found, or files are missing, damaged, or refused; if a revision is given for
        a local model.
    """
    if source is None or (source == DEMO and not Path(source).exists()):
        _refuse_revision(revision, "the embedded demo model")
        return _demo(with_weights)
    accepts: Any = {"allow_pickle": allow_pickle, "with_weights": with_weights}
    path, is_file, is_folder = _look_up(source)
    if (is_file or is_folder) and (result := result_at(path)) is not None:
        raise RequestError(
            f"MODEL '{source}' is a result of distviz, not a model",
            f"show it: distviz show {shlex.quote(str(result))}",
        )
    if is_file or is_folder:
        _refuse_revision(revision, f"'{source}', a local {'file' if is_file else 'folder'}")
        check_text(str(path.resolve()), "the path of MODEL")  # manifests have it
    if is_file:
        return _gguf_checkpoint(path, source, with_weights)
    if is_folder:
        return _folder_checkpoint(path, source, path.resolve().name, **accepts)
    if source.endswith(".gguf") or not _HUB_ID.fullmatch(source):
        raise RequestError(
            f"MODEL '{source}' does not exist",
            "give a folder with config.json, a .gguf file, or a hub id such as org/name",
        )
    folder = _download(source, revision, **accepts)
    return _folder_checkpoint(folder, source, source.rpartition("/")[2], folder.name, **accepts)


def _refuse_revision(revision: str | None, model: str) -> None:
    """Raise a RequestError where a revision is given for a model that has none."""
    if revision is not None:
        raise RequestError(
            f"--revision '{revision}' has no effect on {model}",
            "remove --revision, or give the hub id of the model",
        )


def _look_up(source: str) -> tuple[Path, bool, bool]:
    """Return the path, and whether it is a file or a folder; RequestError if it cannot be one."""
    try:
        path = Path(source).expanduser()
        return path, path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, an unknown user
        shown = source if len(source) <= _SHOWN else f"{source[:_SHOWN]}…"
        raise RequestError(
            f"MODEL '{shown}' is no path: {getattr(error, 'strerror', None) or error}",
            "give a folder with config.json, a .gguf file, or a hub id such as org/name",
        ) from error


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint has a tokenizer (a GGUF always has)."""
    return checkpoint.gguf is not None or _has_tokenizer(checkpoint.tokenizer_folder)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def fingerprint(config: str, weights: Iterable[Path] = ()) -> str:
    """Return ``"sha256:..."`` over the configuration and a part of each weights file.

    The part is name, size, safetensors header, first and last MiB, and 256 evenly spaced pieces
    of 4 KiB in between. It takes milliseconds; a change between two pieces is not detected.
    """
    digest = hashlib.sha256(config.encode())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            start = file.read(_MIB)
            digest.update(start)
            if path.suffix == ".safetensors" and len(start) >= _LENGTH_BYTES:
                rest = _LENGTH_BYTES + struct.unpack("<Q", start[:_LENGTH_BYTES])[0] - len(start)
                digest.update(file.read(max(0, rest)))
            for place in range(_MIB, size - _MIB, max(_PIECE, size // _PIECES)):
                file.seek(place)
                digest.update(file.read(_PIECE))
            file.seek(max(0, size - _MIB))
            digest.update(file.read())
    return f"sha256:{digest.hexdigest()}"


def _demo(with_weights: bool) -> Checkpoint:
    folder = Path(str(files("distviz") / DEMO))
    if not (folder / "config.json").is_file():
        raise RequestError(
            "the embedded demo model is missing from this installation",
            "install distviz again, or give a MODEL: a folder, a .gguf file or a hub id",
        )
    return _folder_checkpoint(folder, DEMO, DEMO, allow_pickle=False, with_weights=with_weights)


# A folder -----------------------------------------------------------------------------------


def _folder_checkpoint(
    folder: Path,
    source: str,
    name: str,
    revision: str | None = None,
    *,
    allow_pickle: bool,
    with_weights: bool,
) -> Checkpoint:
    if is_adapter(folder):
        return _adapter_checkpoint(folder, source, name, allow_pickle, with_weights)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise refused(source, describe_folder(folder) or _NO_CONFIG)
    config = read_json(config_path)
    _check_quantization(config, config_path)
    found = Checkpoint(folder, source, name, config=config, revision=revision)
    if not with_weights:
        return found
    weights = find_weights(folder, source, allow_pickle=allow_pickle)
    return replace(
        found, weights=weights.files, tensors=weights.tensors, pickled=weights.pickled,
        notes=weights.notes,
    )  # fmt: skip


def _config_parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def _check_quantization(config: dict[str, Any], path: Path) -> None:
    for part in _config_parts(config):
        declared = part.get("quantization_config")
        if declared is not None and not isinstance(declared, dict):
            raise RequestError(
                f"{path}: quantization_config is {str(declared)[:40]!r}",
                "it must be an object with quant_method, or be absent",
            )


def _adapter_checkpoint(
    folder: Path, source: str, name: str, allow_pickle: bool, with_weights: bool
) -> Checkpoint:
    """Return the base model of an adapter, with the adapter."""
    adapter = find_adapter(folder, source, allow_pickle=allow_pickle, with_weights=with_weights)
    correct = "correct base_model_name_or_path in its adapter_config.json"
    if is_adapter(Path(adapter.base).expanduser()):
        raise RequestError(
            f"the base of the adapter '{source}' is itself an adapter: {adapter.base}", correct
        )
    try:
        base = locate(
            adapter.base,
            revision=adapter.revision,
            allow_pickle=allow_pickle,
            with_weights=with_weights,
        )
    except RequestError as error:
        raise RequestError(
            f"the base of the adapter '{source}' cannot be opened: {error.message}",
            f"{correct}{error.hint and f'; or {error.hint}'}",
        ) from error
    return replace(base, source=source, name=name, adapter=adapter)


# The hub -----------------------------------------------------------------------------------


def _download(source: str, revision: str | None, *, allow_pickle: bool, with_weights: bool) -> Path:
    """Download the needed files of a hub model into the local cache; return their folder."""
    wanted = ["*.json", "*.txt", "*.model", "*.py", "*.jinja"]
    if with_weights:
        wanted.append("*.safetensors")
    try:
        folder = _fetch(source, revision, wanted)
        if with_weights and allow_pickle and not any(folder.glob("*.safetensors")):
            folder = _fetch(source, revision, ["pytorch_model*"])
    except Exception as error:  # the hub client's errors come from several packages
        raise _unreachable(source, revision, error) from error
    return folder


def _fetch(source: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    # Weights in subfolders and further copies of the same weights are never read.
    other = ["*/*", "consolidated*", "*.fp16.*", "*.fp32.*"]
    return Path(
        snapshot_download(source, revision=revision, allow_patterns=wanted, ignore_patterns=other)
    )


def _unreachable(source: str, revision: str | None, error: Exception) -> RequestError:
    kind = type(error).__name__
    at = f" at revision '{revision}'" if revision else ""
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"):
        return RequestError(
            f"MODEL '{source}'{at} is neither a local folder nor a model on the hub",
            "check the spelling; a private model needs `hf auth login`",
        )
    if kind == "GatedRepoError":
        return RequestError(
            f"MODEL '{source}' is gated on the hub", "accept its terms there, then `hf auth login`"
        )
    return RequestError(
        f"MODEL '{source}'{at} is neither a local folder nor in the local cache, "
        f"and the hub cannot be reached ({kind})",
        "give a local folder or a .gguf file, or go online",
    )


# GGUF ---------------------------------------------------------------------------------------


def _gguf_checkpoint(path: Path, source: str, with_weights: bool) -> Checkpoint:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise RequestError(f"MODEL '{source}' cannot be read: {error.strerror}") from error
    if path.suffix.lower() != ".gguf" and magic != b"GGUF":
        folder = path.absolute().parent
        has_config = any((folder / f"{kind}config.json").is_file() for kind in ("", "adapter_"))
        raise RequestError(
            f"MODEL '{source}' is a file, but not a .gguf",
            f"give its folder: {folder}"
            if has_config
            else "give the folder that contains config.json, a .gguf file, or a hub id",
        )
    if importlib.util.find_spec("gguf") is None:
        raise RequestError(
            f"'{source}' needs the package gguf, which is not installed", "pip install gguf"
        )
    try:
        end = gguf_end(path)
    except GgufError as error:
        raise damaged(path, str(error)) from error
    except (OSError, ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise damaged(path, "its header cannot be read as GGUF") from error
    size = path.stat().st_size
    if with_weights and size < end:
        raise damaged(path, f"truncated: {counted(size, 'byte')} where {end:,} are expected")
    return Checkpoint(path.parent, source, path.stem, (path,), gguf=path.name)
