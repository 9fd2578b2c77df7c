"""``imatrix.gguf``: the importance matrix of llama.cpp.

The layout is that of its tool ``llama-imatrix``: for each weight the tensors ``NAME.in_sum2`` (sum
of x^2 of each input channel) and ``NAME.counts`` (tokens), both float32 with a row for each
matrix; ``general.type`` is ``imatrix``. Routed experts are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distviz.errors import RequestError
from distviz.integrations.linear_places import left_out, linear_places
from distviz.output import first_of
from distviz.results import Run, model_layers

FILE = "imatrix.gguf"
_ALIASES = {
    "mistral": "llama", "mixtral": "llama", "cohere": "commandr", "phi": "phi2",
    "deepseekv2": "deepseek2", "deepseekv3": "deepseek2",
}  # fmt: skip
"""Model types of transformers whose architecture has another name in GGUF, as `_plain` has it."""
_CHUNK = 512


def write_imatrix(run: Run, out: Path) -> list[str]:
    """Write ``imatrix.gguf`` into a folder; return what is left out.

    Raises
    ------
    RequestError
        If the run lacks what is needed, or GGUF has no name for its architecture.
    """
    import gguf

    places = linear_places(run, "imatrix")
    model = run.manifest.get("model") or {}
    architecture = _architecture(str(model.get("model_type")), gguf.MODEL_ARCH_NAMES)
    names = gguf.get_tensor_name_map(architecture, model_layers(run.manifest))
    entries: dict[str, tuple[Any, int]] = {}
    unnamed = []
    for place in places:
        for module in place.modules:
            name = next(filter(None, map(names.get_name, _spellings(module))), None)
            if name is None or place.key.stack != "decoder":
                unnamed.append(module)
            else:
                entries[f"{name}.weight"] = place.squares, place.count
    if not entries:
        raise RequestError(f"GGUF has no name for {unnamed[0]}, there is nothing to write")
    _write(gguf, out / FILE, gguf.MODEL_ARCH_NAMES[architecture], run, entries)
    without = [f"GGUF has no name for {first_of(unnamed)}: left out"] if unnamed else []
    return left_out(run) + without


def _write(
    gguf: Any, path: Path, architecture: str, run: Run, entries: dict[str, tuple[Any, int]]
) -> None:
    settings = run.manifest.get("settings") or {}
    size = int(settings.get("max_length") or _CHUNK)
    most = max(count for _, count in entries.values())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", _datasets(settings))
    writer.add_uint32("imatrix.chunk_count", max(most // size, 1))
    writer.add_uint32("imatrix.chunk_size", size)
    for name, (squares, count) in sorted(entries.items()):
        writer.add_tensor(f"{name}.in_sum2", squares.astype(np.float32)[None])
        writer.add_tensor(f"{name}.counts", np.array([[count]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _datasets(settings: dict[str, Any]) -> list[str]:
    """Return the names of the texts, without their folders."""
    given = settings.get("dataset") or settings.get("text") or []
    texts = [given] if isinstance(given, str) else given
    return [Path(str(text)).name for text in texts] or ["distviz"]


def _architecture(model_type: str, known: dict[Any, str]) -> Any:
    """Return the architecture of gguf for a model type of transformers."""
    plain = _plain(model_type)
    names = {_plain(name): architecture for architecture, name in known.items()}
    for name in (plain, _ALIASES.get(plain), plain.removesuffix("text")):
        if name in names:
            return names[name]
    raise RequestError(f"GGUF has no architecture for model type '{model_type}'")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _spellings(module: str) -> Iterator[str]:
    """Yield a path without the modules that wrap the language model."""
    parts = module.split(".")
    for start in range(len(parts)):
        rest = ".".join(parts[start:])
        yield from (rest, f"model.{rest}")
