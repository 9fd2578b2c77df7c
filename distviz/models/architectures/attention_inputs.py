"""What the projections of an attention read: the same values, or not."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

KEY = ("k_proj", "key", "k", "k_lin", "Wk")
VALUE = ("v_proj", "value", "v", "v_lin", "Wv")
"""Names of the projections to keys and to values."""


def reads_apart(attention: nn.Module) -> set[str]:
    """Return the names of projections that do not read what the queries read.

    Values where positions are added to queries and keys, as in D-FINE; keys and values where they
    read a shorter sequence (the attention has a convolution, as in PVT), or a longer one.
    """
    if any(type(one).__name__ in ("Conv1d", "Conv2d") for one in attention.modules()):
        return {*KEY, *VALUE}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(attention).forward)))
    except (OSError, SyntaxError):
        return set()
    read = {
        node.func.attr: ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
    }
    longer = {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("torch.cat(")
    }
    keys, values = ({read[name] for name in names if name in read} for names in (KEY, VALUE))
    if keys & longer:
        return {*KEY, *VALUE}
    return {*VALUE} if keys and values and not keys & values else set()
