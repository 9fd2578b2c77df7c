"""Choose the weights files of a folder that transformers reads, and name those that it ignores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distviz.errors import RequestError
from distviz.models.folder_kinds import Found, describe_folder
from distviz.models.safetensors_files import (
    INDEX,
    SINGLE,
    StoredTensor,
    check_metadata,
    read_header,
    read_shards,
    shard_paths,
)
from distviz.output import first_of

_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack",
            "*.onnx", "*.index.json", "original/*.pth", "original/*.safetensors",
            "metal/*.bin")  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DISTRIBUTED = "shard-" + "[0-9]" * 5 + "-model-*.safetensors"
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "trainer_state")
"""Starts of the names of files that a trainer saves beside the weights."""
_INCOMPLETE = Found(
    "has no weights: neither model.safetensors nor an index of shards",
    "the download may be incomplete; `distviz inspect` needs no weights",
)


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weights files of a folder.

    Attributes
    ----------
    files
        Sorted by name.
    tensors
        Tensors by the headers of safetensors files; empty for pickles.
    pickled
        Whether they are pickle files.
    notes
        A warning about other weights in the folder, if there are any.
    """

    files: tuple[Path, ...]
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    pickled: bool = False
    notes: tuple[str, ...] = ()


def find_weights(folder: Path, source: str, *, allow_pickle: bool) -> WeightFiles:
    """Find the weights files of a folder, in the order in which transformers prefers them.

    Raises
    ------
    RequestError
        If there are none, or they are damaged, or pickles although these are not allowed.
    """
    if (folder / "adapter_config.json").is_file():
        raise RequestError(
            f"'{source}' holds both a whole model and an adapter (adapter_config.json)",
            "move the adapter's files into a folder of their own, and give the one to measure",
        )
    if distributed := sorted(folder.glob(_DISTRIBUTED)):
        raise RequestError(
            f"'{source}' is a distributed checkpoint of transformers ({distributed[0].name})",
            "load it with from_pretrained and write it with save_pretrained in one process",
        )
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        tensors, read = read_header(single), [single]
    elif index.is_file():
        tensors, read = read_shards(index), [index]
    else:
        files = _pickles(folder, source, allow_pickle)
        read = [*files, folder / _PICKLE_INDEX]
        return WeightFiles(files, pickled=True, notes=_ignored(folder, files, read))
    files = tuple(sorted({tensor.file for tensor in tensors.values()})) or tuple(read)
    return WeightFiles(files, tensors, notes=_ignored(folder, files, read))


def _ignored(folder: Path, files: tuple[Path, ...], also_read: list[Path]) -> tuple[str, ...]:
    """Return a warning that names the weights that are not read; none where there are no others."""
    read = {*files, *also_read}
    found = {path for pattern in _WEIGHTS for path in folder.glob(pattern)}
    other = sorted(
        str(path.relative_to(folder))
        for path in found - read
        if path.is_file() and not path.name.startswith(_NO_WEIGHTS)
    )
    if not other:
        return ()
    kept = first_of([path.name for path in files])
    return (f"several sets of weights: {kept} is read, {first_of(other)} ignored",)


def _pickles(folder: Path, source: str, allow_pickle: bool) -> tuple[Path, ...]:
    single, index = folder / _PICKLE, folder / _PICKLE_INDEX
    readable = next((path for path in (single, index) if path.is_file()), None)
    if readable is None:
        found = describe_folder(folder)
        names = sorted(_pickle_names(folder))
        if found is None and names:
            found = Found(
                f"has weights under names that transformers does not read: {names[0]}",
                "expected model.safetensors or pytorch_model.bin",
            )
        raise refused(source, found or _INCOMPLETE)
    if not allow_pickle:
        raise RequestError(
            f"'{source}' has only pickle weights ({readable.name}), which can run code when loaded",
            "convert them to safetensors, or pass --allow-pickle if you trust their source",
        )
    if readable == single:
        return (single,)
    check_metadata(index)
    return shard_paths(index)


def _pickle_names(folder: Path) -> Iterator[str]:
    for pattern in _PICKLES:
        for path in folder.glob(pattern):
            if not path.name.startswith(_NO_WEIGHTS):
                yield path.name


def refused(source: str, found: Found) -> RequestError:
    """Return the error of a folder of another kind."""
    return RequestError(f"'{source}' {found.what}", found.hint)
