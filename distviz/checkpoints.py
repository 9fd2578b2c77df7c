"""Check a checkpoint's files before anything expensive reads them: no torch, no transformers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import mmap
import re
import struct
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEMO", "Checkpoint", "fingerprint", "has_tokenizer", "locate"]

DEMO = "demo"

_MIB = 1 << 20
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json", "vocab.bpe", "spm.model",
)  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAFETENSORS_MAX_HEADER = 100_000_000
_LENGTH_BYTES = 8
_GGUF_MAGIC = int.from_bytes(b"GGUF", "little")


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

    """

    folder: Path
    source: str
    name: str
    weights: tuple[Path, ...] = ()
    gguf: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    pickled: bool = False


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
    folder = _download(source, revision, allow_pickle=allow_pickle, with_weights=with_weights)
    name = source.rpartition("/")[2]
    return _folder_checkpoint(
        folder, source, name, folder.name, allow_pickle=allow_pickle, with_weights=with_weights
    )


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Return whether the checkpoint brings a tokenizer (a GGUF always does)."""
    return checkpoint.gguf is not None or any(
        (checkpoint.folder / name).is_file() for name in _TOKENIZER_FILES
    )


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
    config_path = folder / "config.json"
    if not config_path.is_file():
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        raise RequestError(
            f"'{source}' is not a checkpoint: it has no config.json",
            f"it holds {ggufs[0]}: give that file"
            if ggufs
            else "give a folder that save_pretrained wrote, a .gguf file, or a hub id",
        )
    config = _read_json(config_path)
    weights: tuple[Path, ...] = ()
    pickled = False
    if with_weights:
        weights, pickled = _weights(folder, source, allow_pickle)
    return Checkpoint(folder, source, name, weights, None, config, revision, pickled)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} is damaged: not a JSON object")
    return content


def _weights(folder: Path, source: str, allow_pickle: bool) -> tuple[tuple[Path, ...], bool]:
    """Return the weights files in the order of preference of transformers, and if pickled."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file() or index.is_file():
        shards = (single,) if single.is_file() else _shards(index)
        for shard in shards:
            _check_safetensors(shard)
        return shards, False
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
        return (single,), True
    if index.is_file():
        return _shards(index), True
    raise RequestError(
        f"'{source}' has weights under names that transformers does not read: {pickles[0]}",
        "expected model.safetensors or pytorch_model.bin",
    )


def _shards(index: Path) -> tuple[Path, ...]:
    mapping = _read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise RequestError(f"{index} is damaged: it has no weight_map")
    names = sorted({str(name) for name in mapping.values()})
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise RequestError(
            f"{len(missing)} of {len(names)} weights files are missing, the first: {missing[0]}",
            f"{index.name} lists them; complete the download of {index.parent}",
        )
    return tuple(index.parent / name for name in names)


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH_BYTES else 0
        if not 0 < length <= min(_SAFETENSORS_MAX_HEADER, max(0, size - _LENGTH_BYTES)):
            raise _damaged(path, f"its header does not fit into its {size:,} bytes")
        header = file.read(length)
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _damaged(path, "its header is not the JSON of a safetensors file") from error
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise _damaged(path, f"{state}: {size:,} bytes where {expected:,} are expected")


def _damaged(path: Path, why: str) -> RequestError:
    return RequestError(f"{path} is damaged: {why}", "download or copy the file again")


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
        end = _gguf_end(path)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise _damaged(path, "its header cannot be read as GGUF") from error
    size = path.stat().st_size
    if with_weights and size < end:
        raise _damaged(path, f"truncated: {size:,} bytes where {end:,} are expected")
    return Checkpoint(path.parent, source, path.stem, (path,), gguf=path.name)


_GGUF_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


class _GgufHeader:
    """A cursor over a GGUF header that skips what it does not need; 40 times a full reader."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, kind: str) -> int:
        value = struct.unpack_from(f"<{kind}", self.data, self.at)[0]
        self.at += struct.calcsize(kind)
        return int(value)

    def text(self) -> str:
        length = self.number("Q")
        if self.at + length > len(self.data):
            raise IndexError(length)
        start, self.at = self.at, self.at + length
        return self.data[start : self.at].decode()

    def skip(self, kind: int) -> None:
        if kind == _GGUF_STRING:
            length = self.number("Q")
            self.at += length
        elif kind == _GGUF_ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _GGUF_SCALARS:
                self.at += _GGUF_SCALARS[inner] * count
            else:
                for _ in range(count):
                    self.skip(inner)
        else:
            self.at += _GGUF_SCALARS[kind]


def _gguf_end(path: Path) -> int:
    """Return where the last tensor of a GGUF ends, in bytes from the start of the file."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _GgufHeader(data)
        magic, version = header.number("I"), header.number("I")
        if magic != _GGUF_MAGIC or version not in (2, 3):
            raise ValueError(magic, version)
        n_tensors, n_fields = header.number("Q"), header.number("Q")
        alignment = 32
        for _ in range(n_fields):
            key, kind = header.text(), header.number("I")
            if key == "general.alignment":
                alignment = header.number("I")
            else:
                header.skip(kind)
        end = 0
        for _ in range(n_tensors):
            header.text()
            n_values = 1
            for _ in range(header.number("I")):
                n_values *= header.number("Q")
            block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(header.number("I"))]
            end = max(end, header.number("Q") + n_values // block * n_bytes)
        return -(-header.at // alignment) * alignment + end


# The hub ------------------------------------------------------------------------------------


def _download(source: str, revision: str | None, *, allow_pickle: bool, with_weights: bool) -> Path:
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
