"""A model whose layers stay in the checkpoint's files until they are needed.

Everything else is resident. A layer is read, renamed, merged and cast by the loading function of
transformers, so its weights equal those of a plain load bit for bit. While it is not loaded, its
parameters are on the meta device.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distviz.errors import DistvizError, MeasurementError, RequestError, first_line
from distviz.models.loading import LoadOptions, quiet, unreadable
from distviz.models.tensor_targets import rename_tensors

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from distviz.models.checkpoint import Checkpoint
    from distviz.models.load_plan import CheckpointInfo

_REST, _HEAD = "", "head"


class SharedWeightsError(RequestError):
    """Layers share weights, so they cannot be read one by one."""


class StopForward(Exception):  # noqa: N818
    """All wanted layers have run; the rest of the forward pass is skipped."""


def why_not_on_disk(checkpoint: Checkpoint, options: LoadOptions) -> str:
    """Return why the layers of a checkpoint cannot be read one by one; empty if they can."""
    if options.device_map is not None:
        return "--device-map places the whole model"
    if checkpoint.is_quantized:
        return "its weights are quantized, and their library loads only whole models"
    if checkpoint.adapter is not None:
        return "its adapter is applied to the whole model"
    if not checkpoint.tensors:
        return "only safetensors files can be read layer by layer"
    return ""


def bytes_in_memory(model: nn.Module, layers: Sequence[str], wanted: Collection[str]) -> int:
    """Return the bytes of a model up to the layers `wanted` (empty: all); it may have no values."""
    part = set(layers_up_to(layers, wanted)) if wanted else set(layers)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    owners = ((value, layer_of(name, layers)) for name, value in tensors)
    return sum(value.nbytes for value, owner in owners if owner is None or owner in part)


def layer_of(module: str, layers: Collection[str]) -> str | None:
    """Return the path of the layer that a module is or belongs to."""
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if prefix in layers), None)


def layer_paths(model: nn.Module, inside: Collection[str]) -> list[str]:
    """Return the paths of all layers in the outermost module lists that contain these modules.

    The order is that of the model's modules: an encoder before its decoder.
    """
    from torch import nn

    lists: dict[str, int] = {}
    for path in inside:
        parts = path.split(".")
        for end in range(1, len(parts)):
            prefix = ".".join(parts[:end])
            found = model.get_submodule(prefix)
            if isinstance(found, nn.ModuleList):
                lists[prefix] = len(found)
                break
    order = [path for path, _ in model.named_modules() if path in lists]
    return [f"{prefix}.{index}" for prefix in order for index in range(lists[prefix])]


def layers_up_to(layers: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Return the layers of each stack up to its last wanted one."""
    found: list[str] = []
    for stack in dict.fromkeys(path.rpartition(".")[0] for path in layers):
        own = [path for path in layers if path.rpartition(".")[0] == stack]
        last = max((number for number, path in enumerate(own) if path in wanted), default=-1)
        found += own[: last + 1]
    return found


@dataclass
class LayersOnDisk:
    """Loads and drops the layers of a model.

    Attributes
    ----------
    model
        In eval mode; parameters of layers that are not loaded are on the meta device.
    layers
        Paths of the layers, stack by stack.
    stored
        Names of tensors by file, for each layer and under ``""`` for everything else.
    wanted
        The needed layers; empty if all are needed.
    streams
        Whether layers are read one by one and dropped again, rather than kept.
    why
        Why they are streamed, if the user did not ask for it.
    """

    model: Any
    layers: list[str]
    stored: dict[str, dict[Path, list[str]]]
    _spans: dict[str, tuple[int, int]]
    _load_config: Any
    loaded: set[str] = field(default_factory=set)
    wanted: frozenset[str] = frozenset()
    streams: bool = False
    why: str = ""

    def load(self, path: str, refusal: type[DistvizError] = MeasurementError) -> None:
        """Read a layer, unless it is loaded; raise `refusal` if its weights cannot be read."""
        if path in self.loaded:
            return
        try:
            self._read(path)
        except Exception as error:  # of safetensors, transformers, the system
            reason = first_line(error)
            raise refusal(f"the weights of {path} cannot be read: {reason}") from error
        layer = self.model.get_submodule(path)
        missing = [name for name, value in layer.named_parameters() if value.is_meta]
        if missing:
            raise refusal(f"the checkpoint has no {path}.{missing[0]}")
        self.loaded.add(path)

    def load_wanted(self) -> None:
        """Read the layers of each stack up to its last wanted one; RequestError as in `load`."""
        for path in layers_up_to(self.layers, self.wanted):
            self.load(path, RequestError)

    def load_rest(self) -> None:
        """Read everything outside the layers; a missing weight (of a pooler) becomes zero."""
        missing = self._read(_REST)
        self.model.tie_weights(missing_keys=missing, recompute_mapping=False)

    def drop(self, path: str) -> None:
        """Drop a layer's weights."""
        from accelerate.utils import set_module_tensor_to_device

        layer = self.model.get_submodule(path)
        for name in [name for name, _ in layer.named_parameters()]:
            set_module_tensor_to_device(layer, name, "meta")
        self.loaded.discard(path)

    def read_ahead(self, path: str) -> None:
        """Ask the system to read the next layer while this one is in use."""
        following = self.layers.index(path) + 1
        if following == len(self.layers) or not hasattr(os, "posix_fadvise"):
            return
        for file, names in self.stored[self.layers[following]].items():
            with file.open("rb") as opened:
                for name in names:
                    span = self._spans[name]
                    os.posix_fadvise(opened.fileno(), *span, os.POSIX_FADV_WILLNEED)

    def _read(self, path: str) -> set[str]:
        import torch
        from safetensors import safe_open
        from transformers.core_model_loading import convert_and_load_state_dict_in_model

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(quiet())
            tensors: dict[str, Any] = {}
            for file, names in self.stored[path].items():
                opened = stack.enter_context(safe_open(file, framework="pt"))
                tensors |= {name: opened.get_slice(name) for name in names}
            info, _ = convert_and_load_state_dict_in_model(self.model, tensors, self._load_config)
        self.model.get_submodule(path).requires_grad_(requires_grad=False)
        missing: set[str] = info.missing_keys
        return missing

    @contextmanager
    def only_wanted(self) -> Iterator[Callable[..., None]]:
        """Yield a forward call that stops after the wanted layers.

        Layers before them are read when they are reached, and stay loaded.
        """
        left: set[str] = set()

        def enter(path: str) -> None:
            if not left:
                raise StopForward
            self.load(path)

        def call(**inputs: Any) -> None:
            left.update(self.wanted)
            try:
                self.model.base_model(**inputs)
            except StopForward:
                return

        with ExitStack() as stack:
            for path in self.layers:
                layer = self.model.get_submodule(path)
                before = layer.register_forward_pre_hook(lambda *_, path=path: enter(path))
                after = layer.register_forward_hook(lambda *_, path=path: left.discard(path))
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield call

    def summary(self) -> dict[str, Any]:
        """Return the entry of ``run.json`` for a model that was read in part or streamed."""
        if self.streams:
            return {
                "streamed": True,
                "layers": layers_up_to(self.layers, self.wanted) or self.layers,
            }
        resident = [value for value in self.model.parameters() if not value.is_meta]
        return {
            "layers": [path for path in self.layers if path in self.loaded],
            "parameters": sum(value.numel() for value in resident),
        }


def open_on_disk(found: CheckpointInfo, layers: list[str], *, with_head: bool) -> LayersOnDisk:
    """Open a safetensors checkpoint with its `layers` left on disk.

    With ``with_head``, an output head with weights of its own is loaded. Raises RequestError if
    weights outside the layers cannot be read, SharedWeightsError if layers share weights.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    checkpoint, device = found.checkpoint, found.options.device
    model = _without_values(found)
    owners = {path: path for path in layers}
    if not with_head and (head := _own_head(model)):
        owners[head] = _HEAD
    refuse_shared(model, owners, checkpoint.source)
    mapping: Any = get_model_conversion_mapping(model)
    load_config = LoadStateDictConfig(
        device_map={"": str(device)}, dtype=model.config.dtype, weight_mapping=mapping
    )
    stored = _tensors_by_layer(model, checkpoint, owners, mapping)
    spans = {name: (tensor.start, tensor.bytes) for name, tensor in checkpoint.tensors.items()}
    on_disk = LayersOnDisk(model, layers, stored, spans, load_config)
    try:
        on_disk.load_rest()
    except Exception as error:
        raise unreadable(checkpoint, "model", error) from error
    _fill_rest(model, owners, device)
    return on_disk


def _without_values(found: CheckpointInfo) -> Any:
    """Build the model with its buffers, and with the parameters of ``found.empty``."""
    from accelerate import init_empty_weights

    config, options = copy.deepcopy(found.config), found.options.for_transformers()
    dtype = getattr(found.empty.config, "dtype", None)
    with init_empty_weights(include_buffers=False):
        model = found.auto.from_config(config, dtype=dtype, **options)
    for name, value in found.empty.named_parameters(remove_duplicate=False):
        holder, _, last = name.rpartition(".")
        setattr(model.get_submodule(holder), last, value)
    return model.eval().requires_grad_(requires_grad=False)


def _own_head(model: Any) -> str | None:
    """Return the path of the output head if it does not share the input embedding's weights."""
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is getattr(embedding, "weight", None):
        return None
    return next((path for path, module in model.named_modules() if module is head), None)


def _owner(name: str, owners: dict[str, str]) -> str:
    """Return the owner of a parameter: its layer, the head, or the rest."""
    return owners.get(layer_of(name, owners) or _REST, _REST)


def refuse_shared(model: nn.Module, owners: dict[str, str], source: str) -> None:
    """Raise SharedWeightsError if a parameter belongs to more than one of its owners."""
    owner_of: dict[int, str] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        owner = _owner(name, owners)
        if owner_of.setdefault(id(value), owner) != owner:
            raise SharedWeightsError(
                f"'{source}' shares weights between layers ({name}), "
                "so they cannot be read one by one",
                "measure it with --no-stream",
            )


def _tensors_by_layer(
    model: Any, checkpoint: Checkpoint, owners: dict[str, str], mapping: list[Any]
) -> dict[str, dict[Path, list[str]]]:
    """Return the names of tensors by layer and file, as transformers would rename them."""
    stored: dict[str, dict[Path, list[str]]] = {path: {} for path in [_REST, *owners.values()]}
    names, known = checkpoint.tensors, model.state_dict()
    for name, _, targets, _ in rename_tensors(model, names, mapping, known):
        stored[_owner(targets[0], owners)].setdefault(names[name].file, []).append(name)
    return stored


def _fill_rest(model: Any, owners: dict[str, str], device: torch.device) -> None:
    """Move buffers to the device, and fill weights that may be missing with zeros."""
    import torch
    from accelerate.utils import set_module_tensor_to_device

    for name, value in list(model.named_parameters()):
        if value.is_meta and _owner(name, owners) == _REST:
            zeros = torch.zeros(value.shape, dtype=value.dtype)
            set_module_tensor_to_device(model, name, device, value=zeros)
    for name, _ in list(model.named_buffers()):
        set_module_tensor_to_device(model, name, device)
