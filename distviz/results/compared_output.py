"""The output of two models compared: its table, and the findings in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distviz.results.columns import Row
from distviz.results.elementwise import value_verdict
from distviz.results.labels import number, percent
from distviz.results.schema import Count, Number, Share
from distviz.results.tables import records

if TYPE_CHECKING:
    from distviz.results.comparison import Comparison


class OutputDocument(Row, kw_only=True):
    """``output_documents.parquet``."""

    document: Count
    tokens: Count
    loss_a: Number | None
    loss_b: Number | None
    kl: Number | None
    top1_agreement: Share | None


def comparison_verdict(comparison: Comparison) -> str:
    """Return the findings, a line each: value by value, the distributions, the output."""
    manifest = comparison.manifest
    lines = value_verdict(manifest), manifest.get("verdict"), output_line(comparison)
    return "\n".join(filter(None, lines))


def output_line(comparison: Comparison) -> str:
    """Return a sentence with both losses, their difference, KL divergence and agreement.

    Empty where neither loss is known.
    """
    found: dict[str, Any] = comparison.manifest.get("output") or {}
    a, b = found.get("loss_a"), found.get("loss_b")
    parts = []
    if a is not None and b is not None:
        difference = _interval(comparison, "loss_difference", signed=True)
        change = _signed(b - a)
        parts.append(f"loss {a:.4f} → {b:.4f} nats ({change}{difference})")
    else:
        for side, loss in (("A", a), ("B", b)):
            parts += [f"loss of {side} {loss:.4f} nats"] if loss is not None else []
    if found.get("kl") is not None:
        parts.append(f"KL(A‖B) {number(found['kl'])}{_interval(comparison, 'kl')}")
    if found.get("top1_agreement") is not None:
        parts.append(f"top-1 agreement {percent(found['top1_agreement'])}")
    reason = found.get("reason")
    if reason and parts:
        parts.append(f"no KL divergence and agreement: {reason}")
    return f"Output: {'; '.join(parts)}." if parts else ""


def _interval(comparison: Comparison, quantity: str, *, signed: bool = False) -> str:
    """Return the 95 % interval of a quantity of the output; empty without one."""
    table = comparison.inference
    if "quantity" not in table:
        return ""
    for row in records(table[table["quantity"] == quantity]):
        if row["ci_low"] is not None:
            shown = _signed if signed else number
            low, high = (shown(row[name]) for name in ("ci_low", "ci_high"))
            return f" [{low}, {high}]"
    return ""


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{number(abs(value))}" if value else "0"
