"""Open a model to measure: a checkpoint, a GGUF, layers built from settings, or the demo.

Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.architectures import Mlp, count_layers, find_mlps, point_width
from distviz.models.checkpoint import Checkpoint, fingerprint, locate
from distviz.models.header_match import match_headers
from distviz.models.lazy_layers import LayersOnDisk, SharedWeightsError, open_on_disk
from distviz.models.load_plan import CheckpointInfo, LoadPlan, RequiredPoints, inspect_checkpoint
from distviz.models.loading import (
    LoadOptions,
    build_empty,
    choose_class,
    headless,
    move,
    parse_device,
    parse_device_map,
    parse_dtype,
    quiet,
    read_model,
)
from distviz.models.memory import check_memory
from distviz.models.model_config import read_config
from distviz.models.quantized import method_of, quantization_of
from distviz.models.synthetic import build_layers, cut_layer_fields, layer_config
from distviz.models.wrappers import entry_device
from distviz.sites import layer_range

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from distviz.settings import LayerSettings


@dataclass
class LoadedModel:
    """A model ready to be measured.

    Parameters
    ----------
    model
        In eval mode, without gradients, on its device.
    tokenizer
        The checkpoint's tokenizer; ``None`` where it was not needed or layers were built.
    name
        Short name for titles and folder names: ``"SmolLM2-135M-Instruct.Q4_1"``, ``"demo"``.
    details
        The entry ``model`` of ``run.json``: ``source, architecture, model_type, activation, layers,
        hidden_size, intermediate_size, parameters, dtype, device, quantization, adapter,
        fingerprint, revision, warnings``.
    mlps
        As :func:`distviz.models.architectures.find_mlps` returns them.
    has_head
        Whether the model has a causal language head, and so logits.
    layer_settings
        Settings of built layers, or ``None``.
    on_disk
        The layers that stay in the checkpoint's files; ``None`` where the whole model is loaded.
    """

    model: nn.Module
    tokenizer: Any | None
    name: str
    details: dict[str, Any]
    mlps: list[Mlp]
    has_head: bool
    layer_settings: LayerSettings | None = None
    on_disk: LayersOnDisk | None = None


def open_model(
    source: str | None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    attn_implementation: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    layer: LayerSettings | None = None,
    needs_tokenizer: bool = True,
    choose: RequiredPoints | None = None,
    stream: bool | None = False,
    prepare: Callable[[LoadedModel], object] | None = None,
) -> LoadedModel:
    """Open a checkpoint, or build layers, and find its MLPs.

    Files, configuration, device, tokenizer and MLPs are checked before any weight is read.

    Parameters
    ----------
    source
        A folder, a ``.gguf`` file, a hub id ``org/name``; ``None`` for the embedded demo.
    dtype
        ``auto`` (float32 for a GGUF and for built layers) or a key of `distviz.settings.DTYPES`.
    device
        ``auto`` (a GPU if there is one) or a torch device; `device_map` overrides it.
    revision, attn_implementation, device_map
        As in transformers.
    trust_remote_code, allow_pickle
        Allow what can run code that comes with the checkpoint.
    layer
        Build these layers instead of opening `source`.
    needs_tokenizer
        Whether to read the tokenizer. Built layers never have one.
    choose
        Returns the required points: if it names some, only the layers up to them are read.
    stream
        Whether layers are read one by one from disk; None: if they exceed free memory.
    prepare
        Called with the model before its weights are read. Not for built layers.

    Raises
    ------
    RequestError
        If the model cannot be opened as asked, or weights are missing.
    """
    places = parse_device(device), parse_device_map(device_map)
    options = LoadOptions(parse_dtype(dtype), *places, attn_implementation, trust_remote_code)
    if layer is not None and layer.weights is None:
        return _open_built(layer, options)
    source = source if layer is None else layer.weights
    checkpoint = locate(source, revision=revision, allow_pickle=allow_pickle)
    if layer is not None:
        return _open_taken(layer, checkpoint, options)
    found = inspect_checkpoint(
        checkpoint, options, needs_tokenizer=needs_tokenizer, choose=choose, stream=stream
    )
    return _open_checkpoint(found, prepare)


def open_inspected(
    info: CheckpointInfo, *, choose: RequiredPoints | None = None, stream: bool | None = False
) -> LoadedModel:
    """Open what `inspect_checkpoint` found, as often as needed; see `open_model`.

    Which layers stay on disk is decided again, by the memory that is free now.
    """
    return _open_checkpoint(info.planned(choose, stream), None)


def _open_checkpoint(
    found: CheckpointInfo, prepare: Callable[[LoadedModel], object] | None
) -> LoadedModel:
    checkpoint, mlps = found.checkpoint, found.mlps
    if prepare is not None:
        empty, name = found.empty, checkpoint.name
        prepare(LoadedModel(empty, found.tokenizer, name, {}, mlps, found.has_head))
    with quiet():
        on_disk = None if found.disk is None else _open_on_disk(found, found.disk)
        if on_disk is not None:
            model, notes = on_disk.model, found.notes
        else:
            model, notes = read_model(found.auto, checkpoint, found.config, found.options)
    if checkpoint.is_quantized or checkpoint.adapter is not None:  # both replace modules
        mlps = find_mlps(model)
    details = model_details(model, found.config, mlps, checkpoint, notes)
    details["order"] = _order_of(found.empty, found.mlps)
    if checkpoint.is_quantized:  # packed values are not parameters
        details["parameters"] = sum(parameter.numel() for parameter in found.empty.parameters())
    name = checkpoint.name
    return LoadedModel(model, found.tokenizer, name, details, mlps, found.has_head, on_disk=on_disk)


def _open_on_disk(found: CheckpointInfo, plan: LoadPlan) -> LayersOnDisk | None:
    """Open everything outside the layers, and the wanted layers unless they are streamed.

    Paths, and all that is recorded by path, are those of the whole model. None where layers share
    weights and streaming was not asked for.
    """
    try:
        on_disk = open_on_disk(found, plan.layers, with_head=not plan.wanted)
    except SharedWeightsError:
        if plan.streams and plan.is_asked_for:
            raise
        return None
    on_disk.wanted, on_disk.streams, on_disk.why = plan.wanted, plan.streams, plan.why
    if not plan.streams:
        on_disk.load_wanted()
    return on_disk


def describe(
    source: str | None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    layer: LayerSettings | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model on the meta device from its configuration alone; no weights are read.

    Returns
    -------
    tuple
        The model (parameters have shapes and no values) and the details of
        :class:`LoadedModel`, where ``device`` is ``"meta"`` and ``fingerprint`` is ``None``.

    Raises
    ------
    RequestError
        If there is no such configuration, or it cannot be built.
    """
    import torch

    options = LoadOptions(None, torch.device("cpu"), None, "eager", trust_remote_code)
    if layer is not None and layer.weights is None:
        with quiet(), torch.device("meta"):
            config = layer_config(layer)
            model = build_layers(layer, config)
        return model, model_details(model, config, find_mlps(model), None, [])
    wanted = source if layer is None else layer.weights
    checkpoint = locate(wanted, revision=revision, with_weights=False)
    with quiet():
        config = read_config(checkpoint, options)
        auto, _ = choose_class(config, checkpoint)
        if layer is not None:
            auto = headless()
            cut_layer_fields(config, _taken_layers(layer, config))
        model = build_empty(auto, config, options)
    details = model_details(model, config, find_mlps(model), checkpoint, [])
    return model, details | {"fingerprint": None}


# Built layers -------------------------------------------------------------------------------


def _open_built(layer: LayerSettings, options: LoadOptions) -> LoadedModel:
    import torch

    with quiet():
        config = layer_config(layer)
        with torch.device("meta"):
            empty = build_layers(layer, config)
        mlps = find_mlps(empty)
        order = _order_of(empty, mlps)
        check_memory(sum(one.nbytes for one in empty.parameters()), "the weights of these layers")
        model = build_layers(layer, config, options.attn_implementation)
    if options.dtype is not None:
        model = model.to(options.dtype)
    model = move(model, options)
    details = model_details(model, config, mlps, None, []) | {"order": order}
    details["fingerprint"] = fingerprint(json.dumps(asdict(layer), sort_keys=True, default=str))
    name = f"{layer.architecture}-{layer.layers}x{layer.hidden_size}"
    return LoadedModel(model, None, name, details, mlps, has_head=False, layer_settings=layer)


def _open_taken(layer: LayerSettings, checkpoint: Checkpoint, options: LoadOptions) -> LoadedModel:
    """Open some layers of a checkpoint: read up to the last wanted one, then drop the others."""
    with quiet():
        config = read_config(checkpoint, options)
        kept = _taken_layers(layer, config)
        whole = copy.deepcopy(config)
        cut_layer_fields(config, range(max(kept) + 1))
        empty, _ = match_headers(headless(), checkpoint, config, options, all_layers=False)
        residual = next(p for mlp in find_mlps(empty) for p in mlp.points if p.site == "residual")
        model, notes = read_model(headless(), checkpoint, config, options, all_layers=False)
    _keep_layers(model, residual.module.rpartition(".")[0], kept)
    cut_layer_fields(whole, kept)
    mlps = find_mlps(model)
    details = model_details(model, whole, mlps, checkpoint, notes)
    name = f"{checkpoint.name}-layer{'+'.join(map(str, kept))}"
    return LoadedModel(model, None, name, details, mlps, has_head=False, layer_settings=layer)


def _taken_layers(layer: LayerSettings, config: PretrainedConfig) -> list[int]:
    total = getattr(config, "num_hidden_layers", None)
    if total is None or config.is_encoder_decoder:
        raise RequestError(
            f"layers cannot be taken from a {config.model_type} checkpoint",
            "take them from a model with one stack of layers",
        )
    kept = list(layer.weights_layers) or list(range(layer.layers))
    for index in kept:
        if not 0 <= index < total:
            raise RequestError(
                f"weights_layers: layer {index} does not exist",
                f"'{layer.weights}' has {layer_range(total)}",
            )
    return kept


def _keep_layers(model: Any, path: str, kept: list[int]) -> None:
    """Keep only some layers of the module list at `path`, in place."""
    from torch import nn

    layers = model.get_submodule(path)
    chosen = nn.ModuleList(layers[index] for index in kept)
    for index, one in enumerate(chosen):
        for module in one.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", index)  # noqa: B010  (nn.Module types it as a module)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, chosen)
    cut_layer_fields(model.config, kept)


def _order_of(empty: nn.Module, mlps: list[Mlp]) -> dict[str, Any] | None:
    """Return the `LayerOrder` of the first layer as plain data."""
    from distviz.models.architectures import trace_order

    with quiet():
        order = trace_order(empty, mlps[0])
    return None if order is None else order.as_dict()


# The entry of run.json ----------------------------------------------------------------------


def model_details(
    model: Any,
    config: PretrainedConfig,
    mlps: list[Mlp],
    checkpoint: Checkpoint | None,
    notes: list[str],
) -> dict[str, Any]:
    """Return the entry ``model`` of ``run.json``; weights need not be loaded."""
    text = config.get_text_config()
    device_map = getattr(model, "hf_device_map", None)
    spread = device_map and len(set(map(str, device_map.values()))) > 1
    device = entry_device(model) if device_map else model.device
    counts = count_layers(mlps)
    quantized = quantization_of(config)
    adapter = checkpoint.adapter if checkpoint else None
    return {
        "source": checkpoint.source if checkpoint else f"built: {config.model_type}",
        "architecture": type(model).__name__,
        "model_type": config.model_type,
        "activation": ", ".join(dict.fromkeys(mlp.activation for mlp in mlps)),
        "gated": any(mlp.gated for mlp in mlps),
        "rope": has_rope(config),
        "layers": getattr(text, "num_hidden_layers", None) or max(counts.values()),
        "hidden_size": getattr(text, "hidden_size", None),
        "intermediate_size": _intermediate_size(model, mlps, text),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": "several (device map)" if spread else str(device),
        "quantization": method_of(quantized) if quantized else None,
        "adapter": {"kind": adapter.kind, "base": adapter.base} if adapter else None,
        "fingerprint": checkpoint.fingerprint if checkpoint else None,
        "revision": checkpoint.revision if checkpoint else None,
        "warnings": [*(checkpoint.notes if checkpoint else ()), *notes],
    }


def has_rope(config: Any) -> bool:
    """Return whether the model uses rotary position embeddings."""
    return bool(getattr(config.get_text_config(), "rope_parameters", None))


def _intermediate_size(model: nn.Module, mlps: list[Mlp], text: PretrainedConfig) -> int | None:
    """Return the width of the activation: that of a down projection, else of the configuration."""
    for mlp in mlps:
        for point in mlp.points:
            if point.site == "product" and (width := point_width(model, point)):
                return width
    for name in ("moe_intermediate_size", "intermediate_size"):
        if size := getattr(text, name, None):
            return int(size)
    return None
