"""Recognize folders that hold no checkpoint of transformers, and say what to do with each.

Only names of files are read, and refs of a hub cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from distviz.output import first_of

_SHARD = re.compile(r"^(.+)-\d+-of-(\d+)(\.safetensors|\.bin)$")
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}


class Found(NamedTuple):
    """What a folder is, as the end of a sentence, and what to do."""

    what: str
    hint: str


def describe_folder(folder: Path) -> Found | None:
    """Return what a folder without readable weights is; None where it is not recognized."""
    folder = folder.absolute()
    try:
        names = {path.name: path for path in sorted(folder.iterdir())}
    except OSError as error:
        return Found(f"cannot be read: {error.strerror}", "check the rights of the folder")
    return next(filter(None, (kind(folder, names) for kind in _KINDS)), None)


def _has(names: dict[str, Path], pattern: str) -> str:
    """Return the last name that matches, in natural order; empty if none does."""
    found = (name for name in names if re.fullmatch(pattern, name))
    return max(found, key=_natural, default="")


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _hub_cache(folder: Path, names: dict[str, Path]) -> Found | None:
    root = folder if "snapshots" in names else folder.parent
    snapshots = root / "snapshots"
    if not snapshots.is_dir() or not (root / "refs").is_dir() or folder.parent == snapshots:
        return None
    found = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    main = root / "refs" / "main"
    commit = main.read_text("utf-8", "replace").strip() if main.is_file() else ""
    if commit not in found:
        commit = found[0] if len(found) == 1 else ""
    hint = (
        f"give its snapshot: {snapshots / commit}"
        if commit
        else (
            f"give one of its snapshots: {', '.join(found[:3])}" if found else "download it again"
        )
    )
    return Found("is the cache of a hub model, not the model itself", hint)


def _trainer_output(folder: Path, names: dict[str, Path]) -> Found | None:
    last = _has(names, r"checkpoint-\d+")
    if not last:
        return None
    return Found("is the output folder of a trainer", f"give a checkpoint in it: {folder / last}")


def _deepspeed(_: Path, names: dict[str, Path]) -> Found | None:
    if not _has(names, r"global_step\d+|zero_to_fp32\.py|zero_pp_rank_.*"):
        return None
    return Found(
        "is a training checkpoint of DeepSpeed, whose weights are spread over its ranks",
        "run `python zero_to_fp32.py . OUT --safe_serialization` there, copy config.json and the "
        "tokenizer to OUT, and give OUT",
    )


def _fsdp(_: Path, names: dict[str, Path]) -> Found | None:
    own = bool(_has(names, r".*\.distcp|\.metadata"))
    parts = [path for path in names.values() if (path / ".metadata").is_file()]
    if not own and not parts:
        return None
    part = "." if own else parts[0].name
    return Found(
        "is a distributed checkpoint of PyTorch (FSDP)",
        f"run `accelerate merge-weights {part} OUT` there, copy config.json and the tokenizer to "
        "OUT, and give OUT",
    )


def _megatron(_: Path, names: dict[str, Path]) -> Found | None:
    if not _has(names, r"mp_rank_\d+.*|iter_\d+|latest_checkpointed_iteration\.txt"):
        return None
    return Found(
        "is a checkpoint of Megatron",
        "convert it to the format of transformers with Megatron's own converter",
    )


def _original(_: Path, names: dict[str, Path]) -> Found | None:
    if not _has(names, r"consolidated.*\.(pth|safetensors)"):
        return None
    return Found(
        "has weights in the original format of their authors (consolidated)",
        "give the version for transformers: the folder with model.safetensors and config.json",
    )


def _shards(_: Path, names: dict[str, Path]) -> Found | None:
    shards = [match for match in map(_SHARD.match, names) if match]
    if not shards:
        return None
    index = f"{shards[0][1]}{shards[0][3]}.index.json"
    total = len(shards)
    return Found(
        f"has shards but no {index}: {shards[0][0]}"
        f"{f' and {total - 1} more' if total > 1 else ''} of {int(shards[0][2])}",
        f"fetch {index} from the same place, or write the model again with save_pretrained",
    )


def _other_names(_: Path, names: dict[str, Path]) -> Found | None:
    other = _has(names, r".*\.safetensors")
    if not other or other == "model.safetensors":
        return None
    return Found(
        f"has weights under names that transformers does not read: {other}",
        "if they belong to this config.json, rename the file to model.safetensors",
    )


def _other_frameworks(folder: Path, names: dict[str, Path]) -> Found | None:
    old = _has(names, r".*\.h5|.*\.msgpack|saved_model\.pb|.*\.ckpt\.index")
    if old:
        return Found(
            f"has weights of TensorFlow or Flax alone ({old})",
            "convert them with transformers 4: from_pretrained(..., from_tf=True or "
            "from_flax=True), then save_pretrained",
        )
    onnx = _has(names, r".*\.onnx") or ("onnx" if any(folder.glob("onnx/*.onnx")) else "")
    if onnx:
        return Found(
            f"has a model for ONNX alone ({onnx}), whose activations cannot be observed",
            "give the model that it was exported from",
        )
    return None


def _ggufs(folder: Path, names: dict[str, Path]) -> Found | None:
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    if not ggufs:
        return None
    contains = first_of(ggufs)
    return Found(
        "is not a checkpoint: it has no config.json" if "config.json" not in names
        else "has no weights beside its .gguf files",
        f"it contains {contains}: give that file ({folder / ggufs[0]})"
        if len(ggufs) == 1 else f"it contains {contains}: give one of them",
    )  # fmt: skip


def _diffusers(folder: Path, names: dict[str, Path]) -> Found | None:
    if "model_index.json" not in names:
        return None
    part = "text_encoder" if (folder / "text_encoder" / "config.json").is_file() else ""
    hint = f"give the part to measure: {folder / part}" if part else "give a model of transformers"
    return Found("is a pipeline of diffusers", hint)


def _sentence_transformers(_: Path, names: dict[str, Path]) -> Found | None:
    if "modules.json" not in names or "config.json" in names:
        return None
    part = next((path for path in names.values() if (path / "config.json").is_file()), None)
    hint = f"give its transformer: {part}" if part else "its transformer is missing; fetch it again"
    return Found("is a folder of sentence-transformers", hint)


def _subfolders(_: Path, names: dict[str, Path]) -> Found | None:
    if "config.json" in names:
        return None
    parts = [path for path in names.values() if (path / "config.json").is_file()]
    if not parts:
        return None
    more = f" (there are {len(parts)})" if len(parts) > 1 else ""
    return Found(
        "is not a checkpoint: it has no config.json", f"give its subfolder{more}: {parts[0]}"
    )


def _without_config(_: Path, names: dict[str, Path]) -> Found | None:
    if "config.json" in names:
        return None
    if not names:
        return Found(
            "is not a checkpoint: it has no config.json, it is empty",
            "give a folder that save_pretrained wrote",
        )
    if _has(names, r"adapter_model.*"):
        return Found(
            "has the weights of an adapter, but no adapter_config.json",
            "fetch adapter_config.json from the same place",
        )
    if _has(names, r".*\.(safetensors|bin|pth?)"):
        return Found(
            "has weights but no config.json, which says what model they are",
            "copy config.json of the original model there",
        )
    if _TOKENIZERS & names.keys():
        return Found("holds only a tokenizer", "give the folder of the model")
    return None


_KINDS: tuple[Callable[[Path, dict[str, Path]], Found | None], ...] = (
    _hub_cache, _deepspeed, _fsdp, _megatron, _diffusers, _sentence_transformers,
    _trainer_output, _original, _ggufs, _subfolders, _without_config, _shards, _other_names,
    _other_frameworks,
)  # fmt: skip
