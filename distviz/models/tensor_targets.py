"""Find the parameter of a model that each stored tensor goes into, as transformers renames it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Target:
    """A parameter or buffer of a model, and the stored tensors that it is made from.

    Attributes
    ----------
    value
        On the meta device: shape and dtype in the model.
    is_converted
        Whether transformers merges, splits or dequantizes the stored tensors.
    stored
        The stored tensors: name in the model's own terms (before merging) to name in the files.
    """

    value: torch.Tensor
    is_converted: bool
    stored: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Targets:
    """Every stored tensor, matched with a model.

    Attributes
    ----------
    filled
        Targets by name. A converter that splits a tensor has its targets here one by one.
    unread
        Tensors that go nowhere: name in the model's own terms to name in the files.
    """

    filled: dict[str, Target]
    unread: dict[str, str]


def match_tensors(model: Any, names: Iterable[str], mapping: Sequence[Any]) -> Targets:
    """Match the names of stored tensors with a model, without reading a value.

    Parameters
    ----------
    model
        A model of transformers, on the meta device or loaded.
    names
        Names of tensors in the files.
    mapping
        Renaming rules of transformers (``get_model_conversion_mapping``).

    Raises
    ------
    RequestError
        If two tensors go into the same place, so that one of them would be lost.
    """
    known = model.state_dict()
    filled: dict[str, Target] = {}
    unread: dict[str, str] = {}
    for name, own, targets, is_converted in rename_tensors(model, names, mapping, known):
        for target in (target for target in targets if target in known):
            entry = filled.setdefault(target, Target(known[target], is_converted))
            if own in entry.stored:
                raise RequestError(
                    f"two tensors are read as {target}: {entry.stored[own]} and {name}",
                    "the files of two checkpoints are mixed; fetch it again",
                )
            entry.stored[own] = name
        if not any(target in known for target in targets):
            unread[targets[0]] = name
    return Targets(filled, unread)


def rename_tensors(
    model: Any, names: Iterable[str], mapping: Sequence[Any], known: dict[str, Any]
) -> Iterator[tuple[str, str, list[str], bool]]:
    """Yield stored name, name before merging and splitting, targets, and whether it is converted.

    ``known`` is the model's state dict. Targets may be unknown to it.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    base = model.base_model_prefix
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, base, known)
        if target not in known and name in known:  # as transformers does
            target, pattern = rename_source_key(name, [], [], base, known)
        if pattern is None:
            yield name, target, [target], False
            continue
        own, _ = rename_source_key(name, renamings, [], None, None)
        first, *others = by_pattern[pattern].target_patterns
        yield name, own, [target, *(target.replace(first, other) for other in others)], True
