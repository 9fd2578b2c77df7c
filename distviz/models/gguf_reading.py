"""Let transformers read a GGUF file in a fraction of its time, into modules of its own.

It parses the file anew for the configuration, the tokenizer and the weights, in views of a memory
map, which are slow to make; and it makes the map of all tensor names for each module of the model.

Where the package ``kernels`` is installed, it would keep the weights of some architectures packed,
and replace layers by fused ones: code from the hub, whose parts no hook observes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from distviz.models.checkpoint import Checkpoint


@contextmanager
def gguf_option(checkpoint: Checkpoint) -> Iterator[dict[str, str]]:
    """Yield the argument of ``from_pretrained`` for a GGUF; nothing for other files.

    Within the context the package gguf parses each file once for the checkpoint, whose ``parsed``
    keeps the result, and makes each map of names once; transformers replaces no layers.
    """
    if checkpoint.gguf is None:
        yield {}
        return
    package, reader, name_map, kernels, kernelize = _own()
    package.GGUFReader = _reader_of(reader, checkpoint.parsed)
    package.get_tensor_name_map = cache(name_map)
    kernels.kernelize_ggml_layers = lambda _: None
    try:
        yield {"gguf_file": checkpoint.gguf}
    finally:
        package.GGUFReader, package.get_tensor_name_map = reader, name_map
        kernels.kernelize_ggml_layers = kernelize


def unpacked() -> dict[str, Any]:
    """Return the argument of ``from_pretrained`` with which the weights of a GGUF are unpacked."""
    try:
        from transformers import GgufConfig
    except ImportError:  # before 5.24, which never kept them packed
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


@cache  # another thread may be within the context
def _own() -> tuple[Any, Any, Any, Any, Any]:
    import gguf

    kernels: Any = SimpleNamespace()
    with suppress(ImportError):  # as in `unpacked`
        kernels = import_module("transformers.integrations.gguf.kernels")
    kernelize = getattr(kernels, "kernelize_ggml_layers", None)
    return gguf, gguf.GGUFReader, gguf.get_tensor_name_map, kernels, kernelize


def _reader_of(base: Any, parsed: dict[str, dict[str, Any]]) -> Any:
    class Reader(base):  # type: ignore[misc]
        """A reader that takes over what another one of the same file has parsed."""

        def __init__(self, path: Any) -> None:
            if str(path) not in parsed:
                super().__init__(path)
                parsed[str(path)] = self.__dict__
            self.__dict__.update(parsed[str(path)])

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: np.memmap[Any, Any]) -> None:
            self._data = mapped.view(np.ndarray)  # slices of the map itself take ten times as long

    return Reader
