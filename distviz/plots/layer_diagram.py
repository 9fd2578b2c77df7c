"""Diagram of a decoder layer in characters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from distviz.sites import LayerOrder

_START = "   ├─"
_USUAL = LayerOrder()
_WIDTH = 78
_FORWARD = ("output", "down", "[down]", "──────")
"""Steps that are drawn on the line of their branch where it is wide enough."""


def layer_lines(
    offered: Collection[str],
    activation: str,
    *,
    gated: bool,
    has_rope: bool = True,
    order: LayerOrder | None = None,
) -> list[str]:
    """Draw one layer from its input down to its output, at most 78 columns wide.

    Parameters
    ----------
    offered
        Sites that are written in brackets; the others are drawn as a plain line.
    activation
        The name of the activation function.
    gated
        Whether the MLP multiplies the activation with a second projection.
    has_rope
        Whether queries and keys are rotated.
    order
        Norms, scales and additions; None draws norms where most architectures have them.
    """
    order = order or _USUAL
    attention = _attention(offered, has_rope, order)
    mlp = _mlp(offered, activation, gated, order)
    if order.is_parallel:
        lines = _together(attention, mlp)
    else:
        lines = [*_added(attention), *_behind(order.stream_after_attention), *_added(mlp)]
    lines += _behind(order.stream_after_mlp) or ["   │"]
    return [" hidden", *lines, "   " + _slot("residual", offered).strip("─")]


@dataclass
class _Branch:
    """Lines of a branch, the one that it ends in, and the steps from there to the addition."""

    lines: list[str]
    last: int
    steps: list[str]

    def extend(self, width: int) -> None:
        """Draw as many steps on the last line as fit; the others are drawn on the way back."""
        while self.steps:
            longer = self.lines[self.last] + _forward(self.steps[0])
            if len(longer) > width or self.steps[0] not in _FORWARD:
                return
            self.lines[self.last] = longer
            self.steps = self.steps[1:]


def _slot(site: str, offered: Collection[str]) -> str:
    return f"─[{site}]─" if site in offered else "─" * (len(site) + 4)


def _input(site: str, offered: Collection[str]) -> str:
    return f"[{site}]─" if site in offered else ""


def _norms(number: int) -> str:
    return " norm ─" * number


def _attention(offered: Collection[str], has_rope: bool, order: LayerOrder) -> _Branch:
    turn = " RoPE ─" if has_rope else ""
    heads = {
        site: f" {site.upper()} {_slot(site, offered)}{_norms(number)}"
        for site, number in zip("qkv", (order.on_q, order.on_k, order.on_v), strict=True)
    }
    heads |= {site: heads[site] + turn for site in "qk"}
    width = max(map(len, heads.values())) + (not has_rope)
    q, k, v = (heads[site].ljust(width, "─") for site in "qkv")
    start = _START + _norms(order.before_attention) + _input("attn_in", offered)
    space = "   │".ljust(len(start))
    behind = f" attention ─{_norms(order.before_output)}{_slot('attention', offered)[1:]}"
    lines = [f"{start}┬─{q}┐", f"{space}├─{k}┼─{behind}", f"{space}└─{v}┘"]
    return _Branch(lines, 1, ["output", *order.after_attention])


def _mlp(offered: Collection[str], activation: str, gated: bool, order: LayerOrder) -> _Branch:
    name = "gate" if gated else "up"
    first = f" {name} {_slot('gate', offered)} {activation} {_slot('act', offered)} ARM "
    behind = f"─{_norms(order.before_down)}" if order.before_down else ""
    behind += _slot("product", offered)[len(behind) > 0 :]
    start = _START + (" same norm ─" if order.shares_norm else _norms(order.before_mlp))
    start += _input("mlp_in", offered)
    steps = ["down", _slot("down", offered)[1:-1], *order.after_mlp]
    if not gated:
        return _Branch([f"{start}──{first}{behind}"], 0, steps)
    up = f" up {_slot('up', offered)}".ljust(len(first), "─")
    lines = [f"{start}┬─{first}─┐", f"{'   │'.ljust(len(start))}└─{up}(×){behind}"]
    return _Branch(lines, 1, steps)


def _added(branch: _Branch, width: int = _WIDTH) -> list[str]:
    """Return the lines of a branch, and that of its way back to the addition."""
    branch.extend(width - 1)
    back = "".join(f"─{_word(step)}" for step in reversed(branch.steps))
    end = max(*map(len, branch.lines), len(back) + 6)
    lines = [*branch.lines]
    lines[branch.last] = lines[branch.last].ljust(end, "─") + "┐"
    lines[branch.last + 1 :] = [line.ljust(end) + "│" for line in lines[branch.last + 1 :]]
    return [*lines, "  (+)" + f"{back}─".rjust(end - 5, "─") + "┘"]


def _together(attention: _Branch, mlp: _Branch) -> list[str]:
    """Draw two branches that are added at once: that of the attention ends farther right."""
    *lines, last = _added(mlp, _WIDTH - 2)
    end = len(last) + 1
    attention.extend(end)
    first, middle, third = attention.lines
    middle += "".join(map(_forward, attention.steps))
    end = max(end, len(middle))
    rest = [line.ljust(end) + "│" for line in (third, "   │", *lines)]
    return [first, middle.ljust(end, "─") + "┐", *rest, f"{last[:-1]}┴".ljust(end, "─") + "┘"]


def _word(step: str) -> str:
    return step if step.startswith(("[", "─")) else f" {step} "


def _forward(step: str) -> str:
    return f"{_word(step)}─"


def _behind(norms: int) -> list[str]:
    return ["   │", *["  norm"] * norms, "   │"] if norms else []
