"""The part of `distviz compare` that compares two models value by value.

Both models read the same batches; each row of B is compared with the row of A of the same document,
window and position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from distviz.errors import RequestError
from distviz.output import counted
from distviz.results import divergence
from distviz.sites import HookPoint, parse_sites
from distviz.stats import Difference, Differences, infer_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distviz.data import Corpus, Document
    from distviz.hooks import PairRecorder
    from distviz.measure import Measurement, PairedOutputs
    from distviz.models import LoadedModel
    from distviz.progress import Progress
    from distviz.results import Comparison
    from distviz.settings import RunSettings
    from distviz.studies.compare_sides import CompareSide

SITES = ("residual", "act", "product", "attention")
"""What is compared unless sites are given."""
_DISTRIBUTIONS = "leave out --elementwise to compare the distributions"


@dataclass(frozen=True)
class Elementwise:
    """Tables by the names of their files, the entry of the manifest, and what was left out."""

    tables: dict[str, pd.DataFrame]
    manifest: dict[str, Any]
    warnings: list[str]


def with_values(
    comparison: Comparison,
    sides: Sequence[CompareSide],
    sites: str | None,
    progress: Progress,
    *,
    local: bool = False,
) -> Comparison:
    """Return a comparison with what `compare_elementwise` finds."""
    found = compare_elementwise(sides, sites, progress, local=local)
    warnings = [*comparison.manifest["warnings"], *found.warnings]
    manifest = comparison.manifest | {"elementwise": found.manifest, "warnings": warnings}
    return replace(comparison, manifest=manifest, elementwise=found.tables)


def compare_elementwise(
    sides: Sequence[CompareSide],
    sites: str | None,
    progress: Progress,
    *,
    local: bool = False,
) -> Elementwise:
    """Compare two models value by value; sides as of `compare`.

    ``sites`` None takes those of :data:`SITES` that both have. With ``local`` each layer of B also
    reads what the layer of A reads.

    Raises
    ------
    RequestError
        If the models cannot be aligned: tokens, depth, width of a site.
    """
    from distviz.hooks import PairRecorder
    from distviz.measure import PairedModels

    opened = _open_both(sides, progress)
    _check_alignment(*opened)
    a, b = (_measurement(one.model, one.settings, sites) for one in opened)
    partners = _partners(a.watched, b.watched)
    a.watched = list(dict.fromkeys(partners.values()))
    b.watched = list(partners)
    recorder = PairRecorder(partners)
    inputs = _layer_inputs(a, b) if local else None
    pair = PairedModels(a, b, recorder, progress, inputs)
    batches = opened[0].batches()
    progress.stage("comparing value by value")
    progress.start(pair.n_passes * sum(batch.tokens for batch in batches))
    pair.run(batches)
    return _result(recorder, opened)


def check_models(sides: Sequence[CompareSide], *, elementwise: bool, local: bool) -> None:
    """Refuse a side that is a saved run, several processes, and ``local`` alone.

    Raises
    ------
    RequestError
        For each of them.
    """
    from distviz.measure import current

    if not elementwise:
        if local:
            raise RequestError("--local has no effect without --elementwise", "add --elementwise")
        return
    if current().size > 1:
        raise RequestError(
            "--elementwise runs in one process", "start it without torchrun or accelerate"
        )
    for name, side in zip("AB", sides, strict=True):
        if side.run is not None:
            raise RequestError(
                f"{name} is a saved run, which has no single values: --elementwise needs the model",
                "give the model's folder, or leave out --elementwise",
            )


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
    from distviz.measure import PairedModels

    opened = _open_both(sides, progress)
    a, b = (_measurement(one.model, one.settings, None) for one in opened)
    a.watched, b.watched = [], []
    pair = PairedModels(a, b, PairRecorder({}), progress, outputs=outputs)
    batches = opened[0].batches()
    progress.stage("comparing the output")
    progress.start(pair.n_passes * sum(batch.tokens for batch in batches))
    pair.run(batches)


def _open_both(sides: Sequence[CompareSide], progress: Progress) -> list[_Opened]:
    return [_open(side, progress, name) for name, side in zip("AB", sides, strict=True)]


def _open(side: CompareSide, progress: Progress, name: str) -> _Opened:
    from distviz import measure
    from distviz.data import list_sources, read_documents
    from distviz.progress import PartProgress

    settings = side.settings
    documents: list[Document] = []
    if settings.layer is None:
        given = [Path(one) for one in settings.text] if side.texts is None else side.texts
        sources = given if side.texts is None else list_sources(given)
        documents = read_documents(sources)
    part = PartProgress(progress, name)
    opened, corpus = measure.open_with_corpus(documents, settings, part, is_for_measure=True)
    settings, _ = measure.with_preset(opened, corpus, settings, part)
    return _Opened(opened, corpus, settings)


def _measurement(opened: LoadedModel, settings: RunSettings, sites: str | None) -> Measurement:
    from distviz.measure import Measurement

    if sites is None:
        offered = {point.site for mlp in opened.mlps for point in mlp.points}
        sites = ",".join(site for site in SITES if site in offered)
    return Measurement.prepare(opened, replace(settings, sites=",".join(parse_sites(sites))))


def _check_alignment(a: _Opened, b: _Opened) -> None:
    """Raise a RequestError if the rows or the layers of both models are not the same."""
    for number, (one, other) in enumerate(zip(a.batches(), b.batches(), strict=False)):
        if one.ids.shape == other.ids.shape and np.array_equal(one.ids, other.ids):
            continue
        document = int(one.documents[0]) if len(one.documents) else number
        raise RequestError(
            "A and B read different tokens, so their values cannot be aligned: the tokenizers "
            f"differ (first in document {document})",
            _DISTRIBUTIONS,
        )
    depths = [_depths(side.model) for side in (a, b)]
    if depths[0] != depths[1]:
        shown = [
            " and ".join(f"{counted(n, 'layer')} in its {stack}" for stack, n in one.items())
            for one in depths
        ]
        raise RequestError(
            f"A has {shown[0]}, B has {shown[1]}: their layers cannot be aligned", _DISTRIBUTIONS
        )


def _depths(opened: LoadedModel) -> dict[str, int]:
    from distviz.models.architectures import count_layers

    return dict(count_layers(opened.mlps))


def _partners(a: Iterable[HookPoint], b: Iterable[HookPoint]) -> dict[HookPoint, HookPoint]:
    """Return the points of B with those of A at the same layer, stack and site, in order."""
    by_place: dict[tuple[Any, ...], list[HookPoint]] = {}
    for point in a:
        by_place.setdefault((point.stack, point.layer, point.site), []).append(point)
    found = {}
    for point in b:
        there = by_place.get((point.stack, point.layer, point.site), [])
        same = next((one for one in there if one.module == point.module), None)
        partner = same or next(iter(there), None)
        if partner is not None:
            there.remove(partner)
            found[point] = partner
    if not found:
        raise RequestError("A and B have no layer and site in common", _DISTRIBUTIONS)
    return found


def _layer_inputs(a: Measurement, b: Measurement) -> Any:
    """Return what feeds the layers of B; both models have the same depth."""
    from distviz.measure import LayerInputs

    paths: list[list[str]] = []
    for side in (a, b):
        points = [one for mlp in side.opened.mlps for one in mlp.points if one.site == "residual"]
        paths.append(list(dict.fromkeys(point.module for point in points)))
    if not paths[0] or len(paths[0]) != len(paths[1]):
        raise RequestError(
            "--local needs layers that return their output, which were not found in both models",
            "leave out --local",
        )
    return LayerInputs(paths[0], paths[1])


def _result(recorder: PairRecorder, opened: Sequence[_Opened]) -> Elementwise:
    tokenizer = opened[0].model.tokenizer

    def text(number: int) -> str:
        return "" if tokenizer is None else str(tokenizer.decode([number]))

    places = {
        point: found for point, found in recorder.places.items() if point not in recorder.left_out
    }
    tables = {
        "elementwise": _places(places, recorder.own, text),
        "elementwise_documents": _documents(places, recorder.own),
        "elementwise_channels": _channels(places),
        "elementwise_tokens": _tokens(places, text),
    }
    left_out = [
        f"{point.site} in layer {point.layer} ({point.module}) is not compared value by value: "
        f"{reason}"
        for point, reason in recorder.left_out.items()
    ]
    dtypes = [str(one.model.model.dtype).removeprefix("torch.") for one in opened]
    sites = list(dict.fromkeys(point.site for point in places))
    known = {"sites": sites, "local": bool(recorder.own), "dtypes": dtypes}
    return Elementwise(tables, known | divergence(tables["elementwise"], dtypes), left_out)


def _place(point: HookPoint) -> dict[str, Any]:
    return {"layer": point.layer, "site": point.site}


def _end(point: HookPoint) -> dict[str, Any]:
    return {"module": point.module, "stack": point.stack}


def _places(
    places: dict[HookPoint, Differences], own: dict[HookPoint, Differences], text: Any
) -> pd.DataFrame:
    intervals = _intervals(places.values())
    rows = []
    for (point, found), interval in zip(places.items(), intervals, strict=True):
        total, where = found.total, found.most_token
        rows.append(
            _place(point)
            | {"sqnr_db": total.sqnr_db, "sqnr_low": interval[0], "sqnr_high": interval[1]}
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


def _intervals(places: Iterable[Differences]) -> NDArray[np.float64]:
    """Return 95 % intervals of the SQNR in dB, float64 (places, 2), with documents as the unit."""
    sums = [found.documents for found in places]
    if not sums:
        return np.empty((0, 2))
    documents = sorted({number for one in sums for number in one})
    nothing = Difference()
    error, first = (
        np.array([[getattr(one.get(n, nothing), name) for n in documents] for one in sums])
        for name in ("error", "first")
    )
    rows = infer_ratio(error, first, "sqnr_db", is_log=True)
    with np.errstate(divide="ignore"):
        ends = -10 * np.log10(rows[["ci_high", "ci_low"]].to_numpy(float))
    return np.where(np.isfinite(ends), ends, np.nan)


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
