"""The part of `distviz compare` that compares two models value by value.

Both models read the same batches; each row of B is compared with the row of A of the same document,
window and position.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.output import listed, visible
from distviz.results import divergence, rounding_level
from distviz.sites import HookPoint, join_layers
from distviz.stats import Difference, Differences, infer_sqnr
from distviz.studies.alignment import paired_layers, partners, points_of

if TYPE_CHECKING:
    from distviz.data import Corpus
    from distviz.hooks import PairRecorder
    from distviz.measure import CheckpointFolder, LayerInputs, Measurement, PairedOutputs
    from distviz.models import LoadedModel
    from distviz.progress import Progress
    from distviz.results import Comparison
    from distviz.settings import RunSettings
    from distviz.studies.compare_sides import CompareSide


@dataclass(frozen=True)
class Elementwise:
    """Tables by the names of their files, the entry of the manifest, what was left out, inference.

    ``inference`` is what `infer_places` returns.
    """

    tables: dict[str, pd.DataFrame]
    manifest: dict[str, Any]
    warnings: list[str]
    inference: pd.DataFrame


def with_values(comparison: Comparison, found: Elementwise) -> Comparison:
    """Return a comparison with what `compare_elementwise` found."""
    warnings = [*comparison.manifest["warnings"], *found.warnings]
    manifest = comparison.manifest | {"elementwise": found.manifest, "warnings": warnings}
    known, phases = comparison.inference, ("phase_a", "phase_b")
    rows = found.inference.assign(**{name: manifest[name] for name in phases})
    inference = pd.concat([known, rows[list(known.columns)]], ignore_index=True)
    return replace(comparison, manifest=manifest, elementwise=found.tables, inference=inference)


def compare_elementwise(
    sides: Sequence[CompareSide],
    sites: str | None,
    progress: Progress,
    *,
    local: bool = False,
    states: CheckpointFolder | None = None,
) -> Elementwise:
    """Compare two models value by value; sides as of `compare`.

    ``sites`` None takes those of `alignment.SITES` that both have. With ``local`` each layer of B
    also reads what the layer of A reads. ``states`` is where to save checkpoints, and to resume
    from.

    Raises
    ------
    RequestError
        If no site can be compared; see `check_alignment` for what is checked before.
    """
    from distviz.hooks import PairRecorder
    from distviz.measure import PairedModels, compare_batches

    opened = _open_both(sides, progress)
    a, b = (_measurement(one.model, one.settings, sites) for one in opened)
    found = partners(a.watched, b.watched)
    unpaired = {point: "B has no such place" for point in a.watched if point not in found.values()}
    unpaired |= {point: "A has no such place" for point in b.watched if point not in found}
    a.watched = list(dict.fromkeys(found.values()))
    b.watched = list(found)
    recorder = PairRecorder(found)
    inputs = _layer_inputs(a.opened, b.opened) if local else None
    pair = PairedModels(a, b, recorder, progress, inputs)
    progress.stage("comparing value by value")
    places = ", ".join(f"{point.module} {point.site}" for point in a.watched)
    asked = _request(opened) | {"places": places, "--local": str(local)}
    compare_batches(pair, opened[0].batches(), asked, progress, states)
    recorder.check()
    result = _result(recorder, opened, unpaired)
    del opened, a, b, pair, inputs  # before a model is loaded again
    gc.collect()
    return result


@dataclass(frozen=True)
class _Opened:
    """A model with the text in its tokens."""

    model: LoadedModel
    corpus: Corpus
    settings: RunSettings

    def batches(self) -> list[Any]:
        from distviz.data import make_batches

        settings = self.settings
        return make_batches(self.corpus, settings.batch_size, skip_special=settings.skip_special)


def compare_predictions(
    sides: Sequence[CompareSide], outputs: PairedOutputs, progress: Progress
) -> None:
    """Compare what two models predict in passes of their own; both are in memory.

    For a comparison that was interrupted: what A predicts is not part of a checkpoint.
    """
    from distviz.hooks import PairRecorder
    from distviz.measure import PairedModels, compare_batches

    opened = _open_both(sides, progress)
    a, b = (_measurement(one.model, one.settings, None) for one in opened)
    a.watched, b.watched = [], []
    pair = PairedModels(a, b, PairRecorder({}), progress, outputs=outputs)
    progress.stage("comparing the output")
    compare_batches(pair, opened[0].batches(), _request(opened), progress)


def _request(opened: Sequence[_Opened]) -> dict[str, str]:
    """Return what must agree between processes and for a resume, of both models."""
    from distviz.measure import request

    return {
        f"{name}: {what}": value
        for name, one in zip("AB", opened, strict=True)
        for what, value in request(one.model, one.settings, one.corpus, one.batches()).items()
    }


def _open_both(sides: Sequence[CompareSide], progress: Progress) -> list[_Opened]:
    return [_open(side, progress, name) for name, side in zip("AB", sides, strict=True)]


def _open(side: CompareSide, progress: Progress, name: str) -> _Opened:
    from distviz import measure
    from distviz.progress import PartProgress

    checked = side.checked or measure.check(side.settings, side.texts)
    part = PartProgress(progress, name)
    opened, corpus = checked.open(side.settings, part), checked.corpus
    settings, _ = measure.with_preset(opened, corpus, side.settings, part)
    return _Opened(opened, corpus, settings)


def _measurement(opened: LoadedModel, settings: RunSettings, sites: str | None) -> Measurement:
    from distviz.measure import Measurement

    measurement = Measurement.prepare(opened, settings)
    measurement.watched = points_of(opened, settings, sites)
    return measurement


def _layer_inputs(a: LoadedModel, b: LoadedModel) -> LayerInputs:
    from distviz.measure import LayerInputs

    return LayerInputs(*(paired_layers(a, b) or ([], [])))


def _result(
    recorder: PairRecorder, opened: Sequence[_Opened], unpaired: Mapping[HookPoint, str]
) -> Elementwise:
    tokenizer = opened[0].model.tokenizer

    def text(number: int) -> str:
        return "" if tokenizer is None else visible(str(tokenizer.decode([number])))

    places = {
        point: found for point, found in recorder.places.items() if point not in recorder.left_out
    }
    dtypes = [str(one.model.model.dtype).removeprefix("torch.") for one in opened]
    inference = infer_places(places, dtypes)
    tables = {
        "elementwise": _places(places, recorder.own, text, inference),
        "elementwise_documents": _documents(places, recorder.own),
        "elementwise_channels": _channels(places),
        "elementwise_tokens": _tokens(places, text),
    }
    left_out = [*_sentences(unpaired), *_sentences(recorder.left_out)]
    sites = list(dict.fromkeys(point.site for point in places))
    known = {"sites": sites, "local": bool(recorder.own), "dtypes": dtypes}
    note = known | divergence(tables["elementwise"], dtypes)
    return Elementwise(tables, note, left_out, inference)


def _sentences(reasons: Mapping[HookPoint, str]) -> Iterator[str]:
    """Yield a sentence for each site and reason, with the layers that are left out."""
    groups: dict[tuple[str, str], list[HookPoint]] = {}
    for point, reason in reasons.items():
        groups.setdefault((point.site, reason), []).append(point)
    for (site, reason), points in groups.items():
        layers = {point.layer for point in points if point.layer >= 0}
        where = f" in {listed('layer', join_layers(layers))}" if layers else ""
        yield f"{site}{where} is not compared value by value: {reason}"


def _place(point: HookPoint) -> dict[str, Any]:
    return {"layer": point.layer, "site": point.site}


def _end(point: HookPoint) -> dict[str, Any]:
    return {"module": point.module, "stack": point.stack}


def _places(
    places: dict[HookPoint, Differences],
    own: dict[HookPoint, Differences],
    text: Any,
    inference: pd.DataFrame,
) -> pd.DataFrame:
    rows = []
    for (point, found), tested in zip(places.items(), inference.to_dict("records"), strict=True):
        total, where = found.total, found.most_token
        rows.append(
            _place(point)
            | {"sqnr_db": total.sqnr_db, "sqnr_low": tested["ci_low"]}
            | {"sqnr_high": tested["ci_high"], "approximate": tested["approximate"]}
            | {"relative_error": total.relative_error, "cosine": total.cosine}
            | {"cosine_tokens": found.mean_cosine, "mean_abs_difference": total.mean_abs}
            | {"max_abs_difference": found.most}
            | {f"max_{name}": getattr(where, name, None) for name in Where}
            | {"max_token": "" if where is None else text(where.id)}
            | {"max_channel": found.most_channel if where is not None else None}
            | {"tokens": found.tokens, "documents": len(found.documents)}
            | {"left_out": found.left_out}
            | (_own(own[point].total) if point in own else {})
            | _end(point)
        )
    return pd.DataFrame(rows)


Where = ("document", "window", "position")


def _own(total: Difference) -> dict[str, float]:
    return {"local_sqnr_db": total.sqnr_db, "local_relative_error": total.relative_error}


def infer_places(places: Mapping[HookPoint, Differences], dtypes: Sequence[str]) -> pd.DataFrame:
    """Return rows of ``inference.csv`` for the SQNR of each place, from ``quantity`` on.

    The p-value is that of an error that rounding explains, see `rounding_level`.
    """
    if not places:
        return pd.DataFrame()
    sums = [found.documents for found in places.values()]
    documents = sorted({number for one in sums for number in one})
    nothing = Difference()
    errors, energies = (
        np.array([[getattr(one.get(n, nothing), name) for n in documents] for one in sums])
        for name in ("error", "first")
    )
    levels = np.array([rounding_level(point.layer, dtypes) for point in places])
    rows = infer_sqnr(errors, energies, levels)
    rows.insert(0, "quantity", "sqnr_db")
    named = [_place(point) | _end(point) | {"layer_b": point.layer} for point in places]
    return rows.assign(**pd.DataFrame(named).rename(columns={"layer": "layer_a"}))


def _documents(
    places: dict[HookPoint, Differences], own: dict[HookPoint, Differences]
) -> pd.DataFrame:
    rows = [
        _place(point)
        | {"document": document, "count": one.count, "sqnr_db": one.sqnr_db}
        | {"relative_error": one.relative_error, "cosine": one.cosine}
        | {"mean_abs_difference": one.mean_abs}
        | ({"local_sqnr_db": own[point].documents[document].sqnr_db} if point in own else {})
        | _end(point)
        for point, found in places.items()
        for document, one in sorted(found.documents.items())
    ]
    return pd.DataFrame(rows)


def _channels(places: dict[HookPoint, Differences]) -> pd.DataFrame:
    columns = ["layer", "site", "rank", "channel", "error_share", "energy_share", "relative_error"]
    rows = [
        _place(point)
        | {"rank": rank, "channel": channel}
        | {"error_share": share, "energy_share": energy, "relative_error": relative}
        | _end(point)
        for point, found in places.items()
        for rank, (channel, share, energy, relative) in enumerate(found.worst_channels(), 1)
    ]
    return pd.DataFrame(rows, columns=[*columns, "module", "stack"])


def _tokens(places: dict[HookPoint, Differences], text: Any) -> pd.DataFrame:
    columns = ["layer", "site", "rank", "document", "window", "position", "token"]
    columns += ["error_share", "relative_error", "cosine"]
    rows = [
        _place(point)
        | {"rank": rank, "document": token.document, "window": token.window}
        | {"position": token.position, "token": text(token.id)}
        | {"error_share": share, "relative_error": relative, "cosine": cosine}
        | _end(point)
        for point, found in places.items()
        for rank, (token, share, relative, cosine) in enumerate(found.worst_tokens(), 1)
    ]
    return pd.DataFrame(rows, columns=[*columns, "module", "stack"])
