"""The output of two models compared: both losses, KL divergence, top-1 agreement, by document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.results import Run

if TYPE_CHECKING:
    from distviz.measure import FirstOutputs, PairedOutputs
    from distviz.studies.compare_sides import CompareSide

_REASONS = {
    "tokens": "the sides tokenize the text differently",
    "vocabulary": "the vocabularies of A and B have different sizes",
    "part": "a part of the text was not compared",
}
"""Why windows were not compared, by the names of `PairedOutputs`."""
_COLUMNS = ("document", "tokens", "loss_a", "loss_b", "kl", "top1_agreement")


@dataclass(frozen=True)
class ComparedOutput:
    """What a comparison says of the output.

    Attributes
    ----------
    totals
        ``output`` of ``comparison.json``.
    documents
        ``output_documents.parquet``; empty where it is not known.
    inference
        Rows of ``inference.csv`` from ``quantity`` on.
    """

    totals: dict[str, Any]
    documents: pd.DataFrame
    inference: pd.DataFrame


class OutputSinks:
    """Receives what both sides predict while they are measured, where both are models."""

    def __init__(self, sides: Sequence[CompareSide], phases: tuple[str, str]) -> None:
        self.a: FirstOutputs | None = None
        self.b: PairedOutputs | None = None
        settings = sides[0].settings
        if all(side.run is None and side.settings.layer is None for side in sides):
            from distviz.measure import FirstOutputs, PairedOutputs, SpillBuffer

            self.a = FirstOutputs(phases[0], SpillBuffer.on_cpu(settings.stream_memory))
            self.b = PairedOutputs(self.a, phases[1])

    def gathered(self) -> PairedOutputs | None:
        """Return the results of all processes; None where nothing was compared."""
        if self.b is not None:
            self.b.gather()
        return self.b

    def close(self) -> None:
        """Remove what was kept on disk."""
        if self.a is not None:
            self.a.spill.close()


def compare_output(
    a: Run, b: Run, phases: tuple[str, str], paired: PairedOutputs | None, *, seed: int
) -> ComparedOutput:
    """Compare the output of two runs; ``paired`` holds what was compared while both were measured.

    Without it the losses are those of the runs, and there is neither a KL divergence nor an
    agreement, unless the run of both is the same, without ARM and with it.
    """
    effects = [run.manifest.get("effect") or {} for run in (a, b)]
    losses = [one.get(f"loss_{phase}") for one, phase in zip(effects, phases, strict=True)]
    totals = dict(zip(("loss_a", "loss_b"), losses, strict=True))
    if paired is not None and _is_whole(paired, effects):
        documents = _documents(paired)
        rows = _infer(documents, seed) if len(documents) else pd.DataFrame()
        return ComparedOutput(_totals(paired) | {"reason": ""}, documents, rows)
    nothing = pd.DataFrame()
    if a.manifest == b.manifest and phases == ("before", "after"):
        known = {name: effects[0].get(name) for name in ("kl", "top1_agreement", "positions")}
        return ComparedOutput(totals | known | {"reason": ""}, nothing, nothing)
    unknown = {"kl": None, "top1_agreement": None, "positions": effects[0].get("positions")}
    return ComparedOutput(totals | unknown | {"reason": _reason(losses, paired)}, nothing, nothing)


def is_partial(paired: PairedOutputs | None, a: Run, b: Run) -> bool:
    """Whether the same positions count in both runs and were not all compared.

    Those were measured before an interruption: checkpoints hold no predictions.
    """
    effects = [run.manifest.get("effect") or {} for run in (a, b)]
    return (
        paired is not None
        and not {*paired.refused} - {"part"}
        and not _is_whole(paired, effects)
        and effects[0].get("positions") == effects[1].get("positions") is not None
    )


def _is_whole(paired: PairedOutputs, effects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every position that counts in both runs was compared."""
    positions = sum(effect.positions for effect in paired.documents.values())
    return (
        positions > 0
        and not paired.refused
        and all(effect.get("positions") == positions for effect in effects)
    )


def _reason(losses: Sequence[float | None], paired: PairedOutputs | None) -> str:
    """Say why KL divergence and agreement are not known."""
    missing = [name for name, loss in zip("AB", losses, strict=True) if loss is None]
    if missing:
        return f"the output of {' and '.join(missing)} was not measured"
    if paired is None:
        return "they need both models on the same text, and a saved run has only its loss"
    return _REASONS[next((name for name in _REASONS if paired.refused[name]), "part")]


def _totals(paired: PairedOutputs) -> dict[str, Any]:
    whole = None
    for effect in paired.documents.values():
        whole = effect if whole is None else whole + effect
    return _named(None if whole is None else whole.result(is_paired=True))


def _named(result: Mapping[str, Any] | None) -> dict[str, Any]:
    found = dict(result or {})
    return {
        "loss_a": found.get("loss_before"),
        "loss_b": found.get("loss_after"),
        "kl": found.get("kl"),
        "top1_agreement": found.get("top1_agreement"),
        "positions": found.get("positions"),
    }


def _documents(paired: PairedOutputs) -> pd.DataFrame:
    """Return ``output_documents.parquet``: documents with a token that has a predecessor."""
    rows = []
    for number, effect in sorted(paired.documents.items()):
        row = _named(effect.result(is_paired=True))
        if row["positions"]:
            rows.append({"document": number, "tokens": row.pop("positions"), **row})
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype(dict.fromkeys(_COLUMNS[2:], float))


def _infer(documents: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the rows of both quantities; documents count by their tokens, as in the totals."""
    from distviz.stats import infer_ratio

    tokens = documents["tokens"].to_numpy(float)
    difference = (documents["loss_b"] - documents["loss_a"]).to_numpy() * tokens
    divergence = documents["kl"].to_numpy() * tokens
    rows = [
        infer_ratio(difference, tokens, "loss_difference", seed=seed),
        infer_ratio(divergence, tokens, "kl", is_log=True, seed=seed),
    ]
    table = pd.concat(rows, ignore_index=True)
    table.insert(0, "quantity", ["loss_difference", "kl"])
    return table


def add_output(inference: pd.DataFrame, found: ComparedOutput, phases: tuple[str, str]) -> Any:
    """Return ``inference.csv`` with the rows of the output, which belong to no layer."""
    if found.inference.empty or not math.isfinite(found.inference["estimate"].sum()):
        return inference
    place: dict[str, Any] = {
        "layer_a": -1,
        "layer_b": -1,
        "site": "output",
        "module": "",
        "stack": "",
    }
    rows = found.inference.assign(**place, phase_a=phases[0], phase_b=phases[1])
    return pd.concat([inference, rows[list(inference.columns)]], ignore_index=True)
