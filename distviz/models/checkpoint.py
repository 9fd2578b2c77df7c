"""Check a checkpoint's files before anything expensive reads them: no torch, no transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.adapters import Adapter, find_adapter, is_adapter
from distviz.models.gguf import gguf_end
from distviz.models.hub import download
from distviz.models.safetensors_files import (
    StoredTensor,
    damaged,
    read_json,
    read_tensors,
    shard_paths,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEMO", "Checkpoint", "fingerprint", "has_tokenizer", "locate", "refuse_opened"]

DEMO = "demo"

_MIB = 1 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "vocab.bpe", "spm.model",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are there and whole.

    Parameters
    ----------
    folder
        Where the files lie; for a hub id, the snapshot in the local cache.
    source
        What was asked for, as given; ``"demo"`` for the embedded model.
    name
        Short name for titles and folder names.
    weights
        Files with weights, sorted by name; empty where only the configuration was wanted.
    gguf
        Name of the GGUF file in `folder`, or ``None``.
    config
        What ``config.json`` says; empty for GGUF, whose header says it.
    revision
        Commit of a hub model.
    pickled
        Whether the weights are pickle files.
    tensors
        What the headers of safetensors files say; empty for other files.
    adapter
        The adapter that belongs on this model, if an adapter was asked for; then `folder`,
        `weights` and `config` are those of its base.

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

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is read: beside an adapter, if it brings its own."""
        own = None if self.adapter is None else self.adapter.folder
        return own if own is not None and _has_tokenizer(own) else self.folder

    @property
    def identity(self) -> str:
        """The configuration, and that of the adapter, as text for a fingerprint."""
        told = [self.config] + ([] if self.adapter is None else [self.adapter.config])
        return "".join(json.dumps(config, sort_keys=True) for config in told)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file with weights, the adapter's last."""
        own = None if self.adapter is None else self.adapter.weights
        return self.weights if own is None else (*self.weights, own)

    @property
    def is_quantized(self) -> bool:
        """Whether the configuration says that the weights are stored in a quantized form."""
        parts = (self.config, self.config.get("text_config") or {})
        return any(part.get("quantization_config") for part in parts)


def refuse_opened(given: object, command: str) -> None:
    """Raise RequestError if something else than a name or a path is to be opened."""
    if not isinstance(given, str | Path):
        raise RequestError(
            f"distviz.{command} opens models itself, it was given a {type(given).__name__}",
            "give its folder or hub id; distviz.watch observes a model that is open",
        )


def locate(
    source: str | None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    with_weights: bool = True,
) -> Checkpoint:
    """Find a checkpoint and check that its files are whole.

    Reads headers only: every safetensors file must be exactly as long as its header says, every
    tensor of a GGUF must lie inside the file.

    Parameters
    ----------
    source
        ``None`` or ``"demo"`` for the embedded model, a folder, a ``.gguf`` file, or a hub id.
    revision
        Branch, tag or commit; for hub ids only.
    allow_pickle
        Whether weights that are pickle files (which can run code) are accepted.
    with_weights
        Whether weights are wanted at all; without them only the configuration is checked (and,
        for a hub id, downloaded).

    Raises
    ------
    RequestError
        If there is nothing there, or files are missing, damaged, or refused.

    """
    if source is None or (source == DEMO and not Path(source).exists()):
        return _demo(with_weights)
    path = Path(source).expanduser()
    if path.is_file():
        return _gguf_checkpoint(path, source, with_weights)
    if path.is_dir():
        return _folder_checkpoint(
            path, source, path.resolve().name, allow_pickle=allow_pickle, with_weights=with_weights
        )
    if source.endswith(".gguf") or not _HUB_ID.fullmatch(source):
        raise RequestError(
            f"MODEL '{source}' does not exist",
            "give a folder with config.json, a .gguf file, or a hub id such as org/name",
        )
    folder = download(source, revision, allow_pickle=allow_pickle, with_weights=with_weights)
    name = source.rpartition("/")[2]
    return _folder_checkpoint(
        folder, source, name, folder.name, allow_pickle=allow_pickle, with_weights=with_weights
    )


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint brings a tokenizer (a GGUF always does)."""
    return checkpoint.gguf is not None or _has_tokenizer(checkpoint.tokenizer_folder)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def fingerprint(config: str, weights: Iterable[Path] = ()) -> str:
    """Return ``"sha256:..."`` over the configuration and the ends of each weights file.

    Of a weights file go in: name, size, safetensors header, first and last MiB. So it takes
    milliseconds for hundreds of gigabytes, and does not notice a change in the middle of a file
    that leaves size, header and ends as they were.
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
        return _adapter_checkpoint(
            folder, source, name, allow_pickle=allow_pickle, with_weights=with_weights
        )
    config_path = folder / "config.json"
    if not config_path.is_file():
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        raise RequestError(
            f"'{source}' is not a checkpoint: it has no config.json",
            f"it holds {ggufs[0]}: give that file"
            if ggufs
            else "give a folder that save_pretrained wrote, a .gguf file, or a hub id",
        )
    config = read_json(config_path)
    found = Checkpoint(folder, source, name, config=config, revision=revision)
    return _with_weights(found, allow_pickle) if with_weights else found


def _adapter_checkpoint(
    folder: Path, source: str, name: str, *, allow_pickle: bool, with_weights: bool
) -> Checkpoint:
    """Return the base model of an adapter, with the adapter to be put on it."""
    adapter = find_adapter(folder, source, allow_pickle=allow_pickle, with_weights=with_weights)
    correct = "correct base_model_name_or_path in its adapter_config.json, or put the model there"
    if is_adapter(Path(adapter.base)):
        raise RequestError(
            f"the base of the adapter '{source}' is itself an adapter: {adapter.base}", correct
        )
    try:
        base = locate(adapter.base, allow_pickle=allow_pickle, with_weights=with_weights)
    except RequestError as error:
        raise RequestError(
            f"the base of the adapter '{source}' cannot be opened: {error.message}", correct
        ) from error
    return replace(base, source=source, name=name, adapter=adapter)


def _with_weights(found: Checkpoint, allow_pickle: bool) -> Checkpoint:
    """Add the weights files, in the order of preference of transformers."""
    tensors = read_tensors(found.folder)
    if tensors is None:
        return replace(found, weights=_pickles(found, allow_pickle), pickled=True)
    files = tuple(sorted({tensor.file for tensor in tensors.values()}))
    return replace(found, weights=files, tensors=tensors)


def _pickles(found: Checkpoint, allow_pickle: bool) -> tuple[Path, ...]:
    folder, source = found.folder, found.source
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not pickles:
        raise RequestError(
            f"'{source}' has no weights: neither model.safetensors nor an index of shards",
            "the download may be incomplete; `distviz inspect` needs no weights",
        )
    if not allow_pickle:
        raise RequestError(
            f"'{source}' has only pickle weights ({pickles[0]}), which can run code when read",
            "convert them to safetensors, or pass --allow-pickle if you trust their source",
        )
    single, index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return shard_paths(index)
    raise RequestError(
        f"'{source}' has weights under names that transformers does not read: {pickles[0]}",
        "expected model.safetensors or pytorch_model.bin",
    )


# GGUF ---------------------------------------------------------------------------------------


def _gguf_checkpoint(path: Path, source: str, with_weights: bool) -> Checkpoint:
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix.lower() != ".gguf" and magic != b"GGUF":
        raise RequestError(
            f"MODEL '{source}' is a file, but not a .gguf",
            "give the folder that holds config.json, a .gguf file, or a hub id",
        )
    if importlib.util.find_spec("gguf") is None:
        raise RequestError(
            f"'{source}' needs the package gguf, which is not installed", "pip install gguf"
        )
    try:
        end = gguf_end(path)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise damaged(path, "its header cannot be read as GGUF") from error
    size = path.stat().st_size
    if with_weights and size < end:
        raise damaged(path, f"truncated: {size:,} bytes where {end:,} are expected")
    return Checkpoint(path.parent, source, path.stem, (path,), gguf=path.name)
