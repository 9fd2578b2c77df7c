"""Diagram of a decoder layer in characters."""

from __future__ import annotations

from collections.abc import Collection


def layer_lines(
    offered: Collection[str], activation: str, *, gated: bool, has_rope: bool = True
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
        Whether queries and keys are rotated. Norms are drawn where most architectures have them.
    """
    lines = [" hidden", *_attention_lines(offered, has_rope)]
    lines += [*_mlp_lines(offered, activation, gated), "   │"]
    lines.append("   " + _slot("residual", offered).strip("─"))
    return lines


def _slot(site: str, offered: Collection[str]) -> str:
    return f"─[{site}]─" if site in offered else "─" * (len(site) + 4)


def _attention_lines(offered: Collection[str], has_rope: bool) -> list[str]:
    turns = {"q": " RoPE ", "k": " RoPE ", "v": "──────"} if has_rope else dict.fromkeys("qkv", "─")
    heads = [f" {site.upper()} {_slot(site, offered)}{turns[site]}─" for site in "qkv"]
    behind = f" attention {_slot('attention', offered)} output "
    middle = f"   │        ├─{heads[1]}┼─{behind}─┐"
    end = len(middle) - 1
    return [
        f"   ├─ norm ─┬─{heads[0]}┐".ljust(end),
        middle,
        f"   │        └─{heads[2]}┘".ljust(end) + "│",
        "  (+)".ljust(end, "─") + "┘",
    ]


def _mlp_lines(offered: Collection[str], activation: str, gated: bool) -> list[str]:
    name = "gate" if gated else "up"
    first = f" {name} {_slot('gate', offered)} {activation} {_slot('act', offered)} ARM "
    behind = f"{_slot('product', offered)} down {_slot('down', offered)}"
    if not gated:
        middle = [f"   ├─ norm ───{first}{behind}┐"]
    else:
        up = f" up {_slot('up', offered)}".ljust(len(first), "─")
        middle = [f"   ├─ norm ─┬─{first}─┐", f"   │        └─{up}(×){behind}┐"]
    end = len(middle[-1]) - 1
    return [*middle, "  (+)".ljust(end, "─") + "┘"]
