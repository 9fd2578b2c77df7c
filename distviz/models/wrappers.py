"""Unwrap a transformers model, and run compiled code uncompiled so that hooks fire.

torch.compile traces a model once and silently skips hooks that are registered later. PEFT and data
parallelism wrap the model in another module, which changes the paths of its layers.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distviz.output import first_of

if TYPE_CHECKING:
    import torch
    from torch import nn


_INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names under which wrappers of torch hold a module: compile, FSDP, activation checkpoints."""


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of torch.compile, PEFT, FSDP and data parallelism.

    Its module paths are those of the original model, adapted layers included.
    """
    from torch import nn
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        inner: Any = next((model._modules[n] for n in _INNER if n in model._modules), None)  # noqa: SLF001
        if inner is None and isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()  # type: ignore[operator]
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


def unwrapped_path(path: str) -> str:
    """Return the path of a module without the wrappers of torch in it."""
    return ".".join(name for name in path.split(".") if name not in _INNER)


def is_of_transformers(model: nn.Module) -> bool:
    """Return whether a model is one of transformers, or derives from one."""
    return any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__)


def entry_device(model: nn.Module) -> torch.device:
    """Return the device for a model's inputs.

    In a model that accelerate dispatches, offloaded weights are on the meta device, and hooks move
    the inputs on.
    """
    import torch

    places = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(places, torch.device("cpu"))


def embedding_rows(model: nn.Module) -> int | None:
    """Return how many token ids a model's embedding has rows for; None without a plain one."""
    from torch import nn

    try:
        embedding = bare(model).get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def position_rows(model: nn.Module) -> int | None:
    """Return how many tokens a model with learned positions reads; None without such positions.

    Rows before the first position, of padding or an offset, do not count.
    """
    from torch import nn

    text: Any = getattr(model, "config", None)
    text = text.get_text_config() if text is not None else None
    names = ("max_position_embeddings", "n_positions")
    stated = next((n for n in (getattr(text, name, None) for name in names) if n), None)
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if not isinstance(module, nn.Embedding) or not ("pos" in name or name == "wpe"):
            continue
        before = 0 if module.padding_idx is None else module.padding_idx + 1
        before = getattr(module, "offset", before)
        # Pictures have positions too, relative ones are fewer.
        if stated in (module.num_embeddings, module.num_embeddings - before):
            return module.num_embeddings - before
    return None


def find_compiled(model: nn.Module) -> list[str]:
    """Return the paths of compiled modules; ``""`` is the model itself."""
    found = []
    for path, module in model.named_modules():
        is_whole = "_orig_mod" in module._modules  # noqa: SLF001
        is_in_place = getattr(module, "_compiled_call_impl", None) is not None
        is_method = hasattr(module.forward, "_torchdynamo_orig_callable")
        if is_whole or is_in_place or is_method:
            found.append(path)
    return found


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[list[str]]:
    """Run compiled code uncompiled while the context lasts, with a warning.

    This includes what ``generate`` would compile. Afterwards the compiled code is used again
    without another compilation.

    Yields
    ------
    The warnings: one line if something is compiled, else none.
    """
    import torch

    notes = _notes(model)
    for note in notes:
        warnings.warn(f"distviz: {note}", UserWarning, stacklevel=4)
    with torch.compiler.set_stance("force_eager"):
        yield notes


@contextmanager
def as_written(model: nn.Module) -> Iterator[list[str]]:
    """Like `uncompiled`, without a Python warning and for callers that do not use ``generate``.

    If nothing is compiled, the compiler is not imported, which would take seconds.
    """
    notes = _notes(model)
    if not notes:
        yield notes
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield notes


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled code uncompiled while the context lasts, also functions that call a model.

    If the compiler was never imported, there is none, and it is not imported.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def _notes(model: nn.Module) -> list[str]:
    named = [path or type(bare(model)).__name__ for path in find_compiled(model)]
    if not named:
        return []
    return [f"{first_of(named)} is compiled and runs uncompiled here: compiled code skips hooks"]
