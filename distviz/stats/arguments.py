"""Arguments of public functions, checked: their types as annotated, tensors, masks and keys."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError
from distviz.output import counted
from distviz.parsing import LARGEST, shown

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    type(None): "None",
}
_HINTS = {
    "Module": "give a loaded model, such as AutoModelForCausalLM.from_pretrained(...)",
    "ARM": "give distviz.ARM(...), or another redistribution",
    "Sketch": "distviz.Sketch().add(values) counts the values of a tensor",
    "HasMagnitudes": "distviz.Sketch().add(values) counts the values of a tensor",
    "Run": "distviz.Run.load(folder) reads one, distviz.run(...) measures one",
    "Comparison": "distviz.Comparison.load(folder) reads one, distviz.compare(a, b) makes one",
}
"""What to give, by the name of the class that is expected."""
_SLOW = {"torch": "torch", "nn": "torch.nn", "pd": "pandas"}
"""Names in annotations that modules import for type checkers alone."""
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict, set, bytes)


def checks_types(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse arguments of other types than its annotations state.

    NumPy's numbers are numbers, True and False are none. Items of lists are checked, those of
    iterators are not.

    Raises
    ------
    RequestError
        When the function is called; names the parameter, what was given and what is expected.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **named: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **named).arguments
        except TypeError as error:
            raise TypeError(f"{function.__name__}(): {error}") from None
        kinds = kinds_of(function)
        for name, value in given.items():
            kind = kinds.get(name, Any)
            if not is_a(value, kind):
                raise RequestError(
                    f"{name} is {_named(value)}, expected {described(kind)}", _hint(kind)
                )
        return function(*args, **named)

    return checked


@functools.cache
def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters by name; those of ``*args`` are not checked."""
    found = {}
    for name, one in inspect.signature(function).parameters.items():
        is_single = one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        if is_single and one.annotation is not one.empty:
            found[name] = _evaluated(one.annotation, function)
    return found


class _Names(dict[str, Any]):
    """Modules that are imported when an annotation names them."""

    def __missing__(self, name: str) -> Any:
        return importlib.import_module(_SLOW[name])


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    return eval(annotation, inspect.unwrap(function).__globals__, _Names())


def is_a(value: Any, kind: Any) -> bool:
    """Return whether a value is of an annotated type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or isinstance(kind, TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(is_a(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if kind in (int, float):
        numbers = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray | list | tuple)
    return _is_of_class(value, origin or kind, inner)


def _is_of_class(value: Any, kind: Any, inner: tuple[Any, ...]) -> bool:
    """Return whether a value is an instance, and its items are of the types of a list."""
    if kind is Callable:
        return callable(value)
    if not isinstance(kind, type):
        return True
    is_list = issubclass(kind, Iterable) and inner and not issubclass(kind, Mapping)
    if is_list and isinstance(value, str | bytes | Mapping):
        return False
    if isinstance(value, type) or not isinstance(value, (kind, np.ndarray) if is_list else kind):
        return False
    items = value if is_list and isinstance(value, typing.Collection) else ()
    return all(is_a(item, inner[0]) for item in items)


def described(kind: Any) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(described, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    name = getattr(origin or kind, "__name__", str(kind))
    if origin is not None and inner and isinstance(origin, type) and issubclass(origin, Iterable):
        noun = "a mapping" if issubclass(origin, Mapping) else "a list"
        return noun if origin is np.ndarray else f"{noun} (of {described(inner[-1])} each)"
    return _WORDS.get(kind, f"a {name}")


def _named(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return shown(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def _hint(kind: Any) -> str:
    names = [getattr(one, "__name__", "") for one in (kind, *typing.get_args(kind))]
    return next((_HINTS[name] for name in names if name in _HINTS), "")


# Tensors ----------------------------------------------------------------------------------------


def check_tensor(values: Any, name: str, dims: tuple[int, ...] = ()) -> None:
    """Refuse what is no torch tensor of floating-point values in memory.

    ``dims`` are the allowed numbers of dimensions; empty allows all.

    Raises
    ------
    RequestError
        That says what was given and what is expected.
    """
    import torch

    if not isinstance(values, torch.Tensor):
        hint = "torch.as_tensor(...) makes one" if isinstance(values, np.ndarray | list) else ""
        raise RequestError(f"{name} is {_named(values)}, expected a torch tensor", hint)
    if values.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        raise RequestError(
            f"{name} is {values.dtype}".replace("torch.", ""),
            "expected bfloat16, float16, float32 or float64",
        )
    _check_storage(values, name)
    if dims and values.dim() not in dims:
        raise RequestError(
            f"{name} has {counted(values.dim(), 'dimension')}, {tuple(values.shape)}",
            f"expected {' or '.join(map(str, dims))}",
        )


def _check_storage(values: torch.Tensor, name: str) -> None:
    import torch

    if values.layout != torch.strided or values.is_quantized:
        kind = "quantized" if values.is_quantized else str(values.layout).removeprefix("torch.")
        raise RequestError(f"{name} is a {kind} tensor", "give a dense one")
    if values.is_meta:
        raise RequestError(f"{name} is on the meta device, it has no values", "load the weights")


def to_tensor(values: Any, name: str) -> torch.Tensor:
    """Return numbers as a torch tensor: a tensor, an array, or what NumPy makes an array of.

    Whole numbers become float64.

    Raises
    ------
    RequestError
        If they are no real numbers, or an array hides some of them.
    """
    import torch

    if isinstance(values, torch.Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise RequestError(f"{name} are {values.dtype}, expected numbers".replace("torch.", ""))
        _check_storage(values, name)
        found = values.detach()
    else:
        array = _array(values, name)
        found = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    return found if found.is_floating_point() else found.to(torch.float64)


def _array(values: Any, name: str) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        raise RequestError(f"{name} are a masked array", "give array.compressed()")
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        what = _named(values) if array.dtype.kind in "OUS" else f"of type {array.dtype}"
        raise RequestError(f"{name} are {what}, expected numbers", "give a tensor or an array")
    return array


def to_mask(mask: Any, name: str) -> NDArray[np.bool_]:
    """Return a mask as NumPy, true where a token takes part.

    Raises
    ------
    RequestError
        If it has other values than true and false, or 1 and 0.
    """
    array = to_array(mask, name)
    if array.dtype != np.bool_:
        is_plain = array.dtype.kind in "fiu"
        if not (is_plain and bool(((array == 0) | (array == 1)).all())):
            raise RequestError(
                f"{name} has other values than 0 and 1",
                "give 1 for a token that takes part and 0 for padding",
            )
    return array.astype(np.bool_)


def to_keys(values: Any, name: str) -> NDArray[np.int64]:
    """Return whole numbers as int64; raise a RequestError for others."""
    array = to_array(values, name)
    is_whole = array.dtype.kind in "iu" or (
        array.dtype.kind == "f" and bool((array == np.trunc(array)).all())
    )
    if not is_whole:
        raise RequestError(f"{name} are no whole numbers ({array.dtype})")
    return array.astype(np.int64)


def to_array(values: Any, name: str) -> NDArray[Any]:
    """Return a tensor or array as NumPy; raise a RequestError for what is none."""
    if hasattr(values, "detach"):
        values = values.detach()
        _check_storage(values, name)
        values = values.float() if values.is_floating_point() else values
        return np.asarray(values.cpu())
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise RequestError(f"{name} is {_named(values)}, expected a tensor or an array")
    return array


def check_key(value: Any, name: str) -> int:
    """Return a whole number of 64 bits; raise a RequestError for another value."""
    is_whole = type(value) is int or is_a(value, int)
    if not is_whole or not -LARGEST - 1 <= value <= LARGEST:
        raise RequestError(f"{name} is {_named(value)}, expected a whole number of 64 bits")
    return int(value)


def check_width(value: Any, name: str = "c") -> None:
    """Raise a RequestError unless a width of the near-zero band is a positive number."""
    if not is_a(value, float) or not 0 < value < float("inf"):
        raise RequestError(
            f"{name} is {_named(value)}, it must be a number above 0", "published: 0.05 to 0.45"
        )
