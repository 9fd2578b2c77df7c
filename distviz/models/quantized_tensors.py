"""Check by the headers that every quantized weight of a checkpoint has its scales.

transformers reads a code without a scale as if it were the weight, and takes the block size from
the shape of the scales. A measurement would show neither, so both are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError
from distviz.models.quantized import method_of
from distviz.models.safetensors_files import FLOATS, StoredTensor, sizes

if TYPE_CHECKING:
    from distviz.models.checkpoint import Checkpoint
    from distviz.models.tensor_targets import Target, Targets

_NEEDED = {
    "fp8": ("", (r"_scale_inv",)),
    "compressed-tensors": ("_packed", (r"_scale",)),
    "bitsandbytes_4bit": ("", (r"\.absmax", r"\.quant_map", r"\.quant_state\.\w+")),
    "bitsandbytes_8bit": ("weight", (r"SCB",)),
    "mxfp4": ("_blocks", (r"_scales",)),
    "metal": ("weight", (r"scales", r"qbiases")),
    "sinq": ("W_q", (r"meta",)),
}
"""By method: the ending that a code's name loses, and the endings of what it needs."""
_NESTED = ("absmax", (r"nested_absmax", r"nested_quant_map"))
_FLOAT4_BLOCK = (1, 32)
_INDICES = frozenset(("I64", "BOOL"))
_SIDE = re.compile(
    r"(scales?|scale_inv|absmax|quant_map|quant_state\.\w+|SCB|weight_format|zero_point|zeros|"
    r"scale_and_zero|shape|meta|q?bias(es)?)$"
)
_HINT = "the scales are missing or have other names; fetch the checkpoint again"


def check_scales(
    targets: Targets, checkpoint: Checkpoint, quantization: Mapping[str, Any], *, dequantizes: bool
) -> None:
    """Raise RequestError unless every code has its scales, of the shape that it needs.

    Only tensors that the quantizer merges are checked; others, and the scales of a model that
    computes in fp8, are parameters of the model, and their names and shapes are checked as such.

    Parameters
    ----------
    targets
        The stored tensors, matched with the model as the quantizer changes it.
    checkpoint
        The files.
    quantization
        ``quantization_config`` of the configuration.
    dequantizes
        Whether the weights are dequantized while they are read.
    """
    method = method_of(quantization)
    for target in targets.filled.values():
        if not target.is_converted or (method == "fp8" and not _is_plain(target)):
            continue
        tensors = {own: checkpoint.tensors[name] for own, name in target.stored.items()}
        codes = {own: tensor for own, tensor in tensors.items() if _is_code(own, tensor)}
        _check_companions(tensors, codes, checkpoint.source, quantization)
        if method == "fp8":
            for code in codes:
                pair = (tensors[code], tensors[f"{code}_scale_inv"])
                _check_scale_type(code, *pair, quantization, checkpoint.source)
                _check_blocks(code, *pair, quantization, dequantizes, checkpoint.source)
        if method == "mxfp4":
            for code in codes:
                scale = f"{code.removesuffix('_blocks')}_scales"
                expected = tensors[code].shape[:-1]
                _check_shape(code, tensors[scale], (expected,), "one for 32", checkpoint.source)


def _is_plain(target: Target) -> bool:
    """Return whether the model holds this parameter in a plain floating-point type."""
    return target.value.is_floating_point() and target.value.element_size() > 1


def _is_code(own: str, tensor: StoredTensor) -> bool:
    return tensor.dtype not in FLOATS and _SIDE.search(own) is None


def _check_companions(
    tensors: Mapping[str, StoredTensor],
    codes: Mapping[str, StoredTensor],
    source: str,
    quantization: Mapping[str, Any],
) -> None:
    """Check that codes and scales belong together, one to one."""
    needed = _needed(quantization)
    described = f"'{source}' is quantized by {method_of(quantization)}, but"
    claimed: set[str] = set()
    left = list(codes)
    while left:
        code = left.pop()
        tensor = tensors[code]
        for name, pattern in _patterns(code, needed if code in codes else _NESTED):
            found = {own for own in tensors if own != code and re.fullmatch(pattern, own)}
            if not found:
                kind = f"{tensor.dtype} in {tensor.file.name}"
                raise RequestError(f"{described} {code} ({kind}) has no {name}", _HINT)
            claimed |= found
            left += [own for own in found if own.endswith(".absmax") and _is_nested(tensors[own])]
    endings = None if needed is None else re.compile(rf"({'|'.join(needed[1])})$")
    for own, tensor in tensors.items():
        if endings is not None and endings.search(own) and own not in claimed | codes.keys():
            raise RequestError(
                f"{described} {own} in {tensor.file.name} belongs to no quantized weight",
                "the files belong to different checkpoints, or are damaged",
            )


def _is_nested(absmax: StoredTensor) -> bool:
    """Return whether the scales of bitsandbytes are quantized themselves."""
    return absmax.dtype not in FLOATS


def _needed(quantization: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    method = method_of(quantization)
    if method == "bitsandbytes":
        method += "_4bit" if quantization.get("load_in_4bit") else "_8bit"
    return _NEEDED.get(method)


def _patterns(code: str, needed: tuple[str, tuple[str, ...]] | None) -> Iterator[tuple[str, str]]:
    """Yield name and pattern of each tensor that a code needs; any other where not known."""
    if needed is None:
        yield "scale beside it", r".*"
        return
    stem = code.removesuffix(needed[0])
    for ending in needed[1]:
        name = stem + ending.replace("\\.", ".").replace("\\w+", "*")
        yield name, re.escape(stem) + ending


def _check_scale_type(
    code: str,
    weight: StoredTensor,
    scale: StoredTensor,
    quantization: Mapping[str, Any],
    source: str,
) -> None:
    """Check that scales are numbers; bytes are exponents, where the files say so."""
    exponents = {"F8_E8M0"}
    if quantization.get("scale_fmt") == "ue8m0" or not weight.dtype.startswith("F8"):
        exponents.add("U8")
    if scale.dtype not in FLOATS | exponents:
        raise RequestError(
            f"'{source}': the scales of {code} are of type {scale.dtype} in {scale.file.name}, "
            "which are no scales",
            "the files are damaged; fetch the checkpoint again",
        )


def _check_blocks(
    code: str,
    weight: StoredTensor,
    scale: StoredTensor,
    quantization: Mapping[str, Any],
    dequantizes: bool,
    source: str,
) -> None:
    """Check the scales of a weight in eight-bit floats, or in pairs of four-bit floats."""
    *outer, rows, columns = (1, 1, *weight.shape)[-max(2, len(weight.shape)) :]
    block = quantization.get("weight_block_size")
    is_packed = not weight.dtype.startswith("F8")
    if is_packed:
        columns, block = 2 * columns, _FLOAT4_BLOCK
    if block is None:
        allowed = ((), (1,), (1, 1), (rows, 1))
        _check_shape(code, scale, allowed, "one for the tensor or for a row", source)
        return
    grid = tuple(-(-size // part) for size, part in zip((rows, columns), block, strict=True))
    words = f"blocks of {sizes(block)}"
    _check_shape(code, scale, ((*outer, *grid),), words, source)
    cut = any(g > 1 and s % b for g, s, b in zip(grid, (rows, columns), block, strict=True))
    if cut and dequantizes:
        raise RequestError(
            f"'{source}': {code} is {sizes(weight.shape)}, no multiple of its {words}, which "
            "transformers cannot dequantize",
            "convert it to bfloat16 first, or measure it on a GPU that computes in fp8",
        )


def _check_shape(
    code: str,
    scale: StoredTensor,
    allowed: tuple[tuple[int, ...], ...],
    words: str,
    source: str,
) -> None:
    if scale.shape not in allowed:
        raise RequestError(
            f"'{source}' contradicts its config.json: the scales of {code} are "
            f"{sizes(scale.shape)} in {scale.file.name}, {sizes(allowed[-1])} expected ({words})",
            "the files belong to another quantization_config, or are damaged",
        )


def refuse_plain(targets: Targets, checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> None:
    """Raise RequestError if nothing in the files is quantized although the configuration says so.

    A quantization that is computed on the plain weights while the model runs is accepted.
    """
    if quantization.get("quantization_mode") == "online":
        return
    own_names = {name for target in targets.filled.values() for name in target.stored}
    side = any(_SIDE.search(name) and not name.endswith("bias") for name in own_names)
    kinds = {tensor.dtype for tensor in checkpoint.tensors.values()}
    if not side and kinds <= FLOATS | _INDICES:
        raise RequestError(
            f"'{checkpoint.source}' is quantized by {method_of(quantization)} according to its "
            "config.json, but all its weights are plain floating-point numbers",
            "remove quantization_config from config.json, or fetch the quantized files",
        )
