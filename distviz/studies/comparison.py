"""The study of `distviz compare`: it makes a `Comparison` of two runs or models."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.progress import PartProgress, Progress
from distviz.results import (
    Comparison,
    Outline,
    Pair,
    Run,
    by_document,
    compare_manifest,
    depth,
    pair_keys,
)
from distviz.settings import RunSettings
from distviz.sites import parse_layers, parse_sites
from distviz.studies.alignment import check_alignment, check_models
from distviz.studies.compare_output import OutputSinks, add_output, compare_output, is_partial
from distviz.studies.compare_sides import CompareSide, find_sides, phase_of_b
from distviz.studies.compare_tables import channel_changes, class_shares, distances
from distviz.studies.compare_warnings import same_documents, same_tokens, warnings_of
from distviz.studies.elementwise import compare_elementwise, compare_predictions, with_values

if TYPE_CHECKING:
    from distviz.data import Document
    from distviz.measure import CheckpointFolder, PairedOutputs

_LAST = ["module", "stack"]


def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    phase_a: str = "before",
    phase_b: str | None = None,
    sites: str | None = None,
    settings: RunSettings | None = None,
    given: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    states: CheckpointFolder | None = None,
    elementwise: bool = False,
    local: bool = False,
    **of_b: Any,
) -> Comparison:
    """Compare two runs; a side that is a model is measured first, one model in memory at a time.

    Parameters
    ----------
    a, b
        A `Run`, a run folder, or a model (as for `distviz.run`). If one side is a run, its text and
        settings apply to the other. A TOML file has the settings of its side; what only one file
        states about the text applies to both.
    phase_a, phase_b
        ``"before"`` or ``"after"``; for ``after`` a model is measured with ARM. None is ``before``,
        or ``after`` where ``of_b`` asks for ARM.
    sites
        Comma-separated; None compares every site that both have.
    settings, given
        For sides that are measured; ``given`` names those that a run's own do not replace.
    progress, states
        Receives the progress; folder for the checkpoints of each side.
    elementwise, local
        Whether the models are also compared value by value, both in memory (without ``sites`` at
        residual, act, product and attention), and each layer of B with A's input to it.
    of_b
        Settings for side B alone, by the names of the options ``--b-…``: ``b_dtype="bfloat16"``.

    Raises
    ------
    RequestError
        If a side cannot be measured, or the sides cannot be compared.
    """
    sides = checked_sides(
        a, b, phase_a=phase_a, phase_b=phase_b, sites=sites, settings=settings, given=given,
        elementwise=elementwise, local=local, **of_b,
    )  # fmt: skip
    base, given = _with_sites(settings or RunSettings(), sites, given)
    phases, progress = (phase_a, phase_of_b(phase_b, of_b)), progress or Progress()
    # First: some reasons against it show only here, before anything is measured.
    part, chosen = states and states.part("values"), base.sites if "sites" in given else None
    by_value = partial(compare_elementwise, sides, chosen, progress, local=local, states=part)
    values = by_value() if elementwise else None
    first, second, outputs = _measure_both(sides, phases, progress, states)
    pairs = _wanted(first, base, given)
    found = compare_runs(first, second, *phases, *pairs, seed=base.seed, outputs=outputs)
    found.manifest.update(measured=_measured(sides), of_b=of_b)
    found = found if values is None else with_values(found, values)
    return replace(found, folders=(_folder(a, sides[0]), _folder(b, sides[1])))


def checked_sides(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    phase_a: str = "before",
    phase_b: str | None = None,
    sites: str | None = None,
    settings: RunSettings | None = None,
    given: frozenset[str] = frozenset(),
    elementwise: bool = False,
    local: bool = False,
    **of_b: Any,
) -> list[CompareSide]:
    """Return both sides after every check that needs no weights; arguments as of `compare`.

    Raises
    ------
    RequestError
        If `compare` would raise one after it has measured a side.
    """
    base, given = _with_sites(settings or RunSettings(), sites, given)
    found = find_sides(a, b, (phase_a, phase_b), base, given, of_b)
    check_models(found, elementwise=elementwise, local=local)
    if all(side.run is not None for side in found):
        return found
    phases = (phase_a, phase_of_b(phase_b, of_b))
    known: dict[tuple[str, ...], list[Document]] = {}
    found = [side.check(name, known) for name, side in zip("AB", found, strict=True)]
    first, second = (side.outline(phase) for side, phase in zip(found, phases, strict=True))
    pair_keys(first, second, *phases, *_wanted(first, base, given))
    if elementwise:
        check_alignment(found, base.sites if "sites" in given else None, local=local)
    return found


def _measured(sides: Sequence[CompareSide]) -> list[str]:
    return [name for name, side in zip("ab", sides, strict=True) if side.run is None]


def _folder(given: Run | str | Path, side: CompareSide) -> Path | None:
    """Return the folder that a side was read from; None for a model or a `Run`."""
    return None if side.run is None or isinstance(given, Run) else Path(given)


def _measure_both(
    sides: Sequence[CompareSide],
    phases: tuple[str, str],
    progress: Progress,
    states: CheckpointFolder | None,
) -> tuple[Run, Run, PairedOutputs | None]:
    """Return the runs of both sides, and what both models predicted while they were measured."""
    with closing(OutputSinks(sides, phases)) as sinks:
        first, second = _runs(sides, sinks, progress, states)
        outputs = sinks.gathered()
    if is_partial(outputs, first, second):
        with closing(OutputSinks(sides, phases)) as sinks:
            outputs = sinks.b
            if outputs is not None:
                compare_predictions(sides, outputs, progress)
    return first, second, outputs


def _runs(
    sides: Sequence[CompareSide],
    sinks: OutputSinks,
    progress: Progress,
    states: CheckpointFolder | None,
) -> Iterator[Run]:
    """Yield the runs of both sides; what is not a run yet is measured."""
    for name, side, sink in zip("ab", sides, (sinks.a, sinks.b), strict=True):
        part = states and states.part(name)
        yield side.run or _measure(side, PartProgress(progress, name.upper()), part, sink)


def finished_comparison(
    folder: Path,
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    phase_a: str,
    phase_b: str | None,
    sites: str | None,
    settings: RunSettings,
    given: frozenset[str],
    elementwise: bool = False,
    local: bool = False,
    **of_b: Any,
) -> Comparison | None:
    """Return the comparison in a folder if it answers the same request, else None."""
    from distviz.measure import documents_of, refuse_changed

    found = Comparison.load(folder)
    phases = (phase_a, phase_of_b(phase_b, of_b))
    base, given = _with_sites(settings, sites, given)
    sides = find_sides(a, b, phases, base, given, of_b)
    for side, run in zip(sides, (found.a, found.b), strict=True):
        known = run.manifest
        if side.run is not None and side.run.manifest != known:
            return None
        if side.run is None:
            if not side.settings.asks_the_same(known.get("settings") or {}):
                return None
            own = None if side.texts is None else documents_of(side.settings, side.texts)
            refuse_changed(known, side.settings, folder, own)
    by_value = found.manifest.get("elementwise")
    if elementwise != bool(by_value) or (by_value and by_value["local"] != local):
        return None
    same = {"phase_a": phase_a, "phase_b": phases[1], "seed": settings.seed}
    if any(found.manifest.get(name) != value for name, value in same.items()):
        return None
    pairs = pair_keys(found.a, found.b, *phases, *_wanted(found.a, base, given))
    return found if pairs == found.pairs else None


def _with_sites(
    settings: RunSettings, sites: str | None, given: frozenset[str]
) -> tuple[RunSettings, frozenset[str]]:
    base = replace(settings, layer=None)
    return (base, given) if sites is None else (replace(base, sites=sites), given | {"sites"})


def _wanted(
    run: Run | Outline, base: RunSettings, given: frozenset[str]
) -> tuple[list[str] | None, list[int] | None]:
    """Return which sites and layers of A are compared; None means all."""
    there = {key.site for key in run.keys}
    sites = parse_sites(base.sites, known=there) if "sites" in given else None
    if "layers" not in given:
        return sites, None
    return sites, parse_layers(base.layers, max(depth(run, key.stack) for key in run.keys))


def _measure(
    side: CompareSide, progress: Progress, states: CheckpointFolder | None, outputs: Any
) -> Run:
    from distviz import measure

    measured = measure.run(
        side.settings,
        progress=progress,
        states=states,
        outputs=outputs,
        checked=side.checked,
    )
    gc.collect()
    return measured


def compare_runs(
    a: Run,
    b: Run,
    phase_a: str = "before",
    phase_b: str = "before",
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    *,
    seed: int = 0,
    outputs: PairedOutputs | None = None,
) -> Comparison:
    """Compare two measured runs; ``layers`` are those of A, None takes all. See `compare`.

    ``outputs`` is what both models predicted while they were measured.
    """
    from distviz.stats import verdict

    pairs = pair_keys(a, b, phase_a, phase_b, sites, layers)
    is_paired = same_documents(a, b)
    of_documents = _infer(pairs, a, b, is_paired=is_paired, seed=seed)
    output = compare_output(a, b, (phase_a, phase_b), outputs, seed=seed)
    stacks = dict.fromkeys(pair.a.stack for pair in pairs)
    manifest = compare_manifest(
        a,
        b,
        phase_a=phase_a,
        phase_b=phase_b,
        sites=list(dict.fromkeys(pair.a.site for pair in pairs)),
        layers=None if layers is None else list(layers),
        seed=seed,
        paired=is_paired,
        alignment={
            stack: "index" if depth(a, stack) == depth(b, stack) else "relative depth"
            for stack in stacks
        },
        same_tokenizer=same_tokens(a, b),
        verdict=verdict(of_documents),
        output=output.totals,
        warnings=warnings_of(a, b),
    )
    return Comparison(
        manifest,
        a,
        b,
        pairs,
        distances(pairs, a, b),
        add_output(of_documents, output, (phase_a, phase_b)),
        channel_changes(pairs, a, b),
        class_shares(pairs, a, b),
        output.documents,
    )


def _infer(pairs: Sequence[Pair], a: Run, b: Run, *, is_paired: bool, seed: int) -> pd.DataFrame:
    """Return ``inference.csv``: one number a document and side, see `distviz.stats.inference`."""
    from distviz.stats import inference

    places = pd.DataFrame(
        {
            "layer_a": [pair.a.layer for pair in pairs],
            "layer_b": [pair.b.layer for pair in pairs],
            "site": [pair.a.site for pair in pairs],
            "phase_a": [pair.a.phase for pair in pairs],
            "phase_b": [pair.b.phase for pair in pairs],
            "module": [pair.a.module for pair in pairs],
            "stack": [pair.a.stack for pair in pairs],
        }
    )
    columns = ("std", "near_zero")
    first = by_document(a.documents, [pair.a for pair in pairs], columns)
    second = by_document(b.documents, [pair.b for pair in pairs], columns)
    if is_paired:
        shared = sorted({*first["std"].columns, *second["std"].columns})
        first, second = (
            {name: table.reindex(columns=shared) for name, table in side.items()}
            for side in (first, second)
        )
    sides = [inference.DocumentValues(**_arrays(side)) for side in (first, second)]
    table = inference.infer(*sides, paired=is_paired, places=places, seed=seed)
    if a.c != b.c:
        table = table[table["quantity"] != "near_zero_difference"].reset_index(drop=True)
    order = [name for name in table if name not in _LAST]
    return table[[*order, *_LAST]]


def _arrays(side: dict[str, pd.DataFrame]) -> dict[str, Any]:
    return {name: table.to_numpy(dtype=float) for name, table in side.items()}
