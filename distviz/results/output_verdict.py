"""Whether a redistribution keeps the model's output, in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distviz.arm import KL_BUDGET
from distviz.output import counted
from distviz.results.labels import arm_layers, change_name, number, percent

if TYPE_CHECKING:
    from distviz.results.run import Run

MOST_LOSS_RISE = 0.1
"""Nats by which the loss of a model may rise."""
ADVICE = "Settings that keep it are found by"


@dataclass(frozen=True)
class OutputVerdict:
    """What a redistribution does to the output of a model.

    Attributes
    ----------
    text
        One sentence with the numbers, and the limits that are exceeded.
    is_kept
        Whether loss and KL divergence are within their limits; None: not measured.
    commands
        They find settings that keep the output; empty where it is kept.
    """

    text: str
    is_kept: bool | None
    commands: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the text, and a sentence with the commands in double quotes."""
        quoted = " or ".join(f'"{one}"' for one in self.commands)
        advice = f"{ADVICE} {quoted}." if quoted else ""
        return f"{self.text} {advice}".strip()


def output_verdict(run: Run) -> OutputVerdict | None:
    """Judge the ``effect`` of a run; None where no redistribution acted.

    The limits: the loss rises by at most 0.1 nats, and the KL divergence is at most that of a
    setting that ``distviz sweep`` recommends. The agreement of the most likely next tokens has no
    limit: where a model is nearly uniform, a tiny change of its output exchanges most of them.
    """
    if not arm_layers(run):
        return None
    effect: dict[str, Any] = run.manifest.get("effect") or {}
    before, after = effect.get("loss_before"), effect.get("loss_after")
    name, settings = change_name(run), run.manifest.get("settings") or {}
    if before is None or settings.get("ripple") is False:
        return OutputVerdict(f"What {name} does to the output was not measured.", is_kept=None)
    if after is None:
        text = f"The output is broken: the loss went from {before:.4f} nats to NaN."
        return OutputVerdict(text, is_kept=False, commands=_commands(run))
    change = f"{after - before:+.4f}".replace("-", "−")
    facts = [f"loss {before:.4f} → {after:.4f} nats ({change})"]
    if effect.get("kl") is not None:
        facts.append(f"KL {number(effect['kl'])}")
    if effect.get("top1_agreement") is not None:
        facts.append(f"top-1 agreement {percent(effect['top1_agreement'])}")
    exceeded = list(_exceeded(effect))
    if not exceeded:
        return OutputVerdict(f"The output is kept: {', '.join(facts)}.", is_kept=True)
    text = f"The output changes too much: {', '.join(facts)}; {' and '.join(exceeded)}."
    return OutputVerdict(text, is_kept=False, commands=_commands(run))


def _exceeded(effect: dict[str, Any]) -> Iterator[str]:
    if effect["loss_after"] - effect["loss_before"] > MOST_LOSS_RISE:
        yield f"the loss may rise by at most {counted(f'{MOST_LOSS_RISE:g}', 'nat')}"
    kl = effect.get("kl")
    if kl is not None and kl > KL_BUDGET:
        yield f"KL may be at most {KL_BUDGET:g}"


def _commands(run: Run) -> tuple[str, ...]:
    settings = run.manifest.get("settings") or {}
    model = settings.get("model")
    words = [shlex.quote(str(model))] if model else []
    for text in settings.get("text") or []:
        words += ["--text", shlex.quote(str(text))]
    rest = " ".join(["", *words])
    commands = (f"distviz run{rest} --preset auto", f"distviz sweep{rest}")
    return commands[settings.get("preset") == "auto" :]
