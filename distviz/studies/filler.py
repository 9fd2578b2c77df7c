"""The study of `distviz filler`: the same prompts with and without filler tokens.

arXiv 2510.01032, sections 3.1 and 3.2, reports that filler tokens between system prompt and
question spread the activations of the first layer. Only the prompt's own tokens are compared,
prompt by prompt and position by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from distviz.data import Corpus, Document
from distviz.errors import RequestError
from distviz.output import counted
from distviz.progress import PartProgress
from distviz.results import SCHEMA_VERSION, FillerStudy, Run, run_folder
from distviz.settings import RunSettings
from distviz.stats import inference

if TYPE_CHECKING:
    from distviz.hooks import PositionRecorder
    from distviz.measure import CheckpointFolder
    from distviz.models import LoadedModel
    from distviz.progress import Progress
    from distviz.sites import SiteKey

DEFAULT_FILLER = "/"
_QUANTITIES = {
    "near_zero_difference": ("near_zero", False),
    "log_variance_ratio": ("variance", True),
    "log_l1_ratio": ("l1", True),
    "log_l2_ratio": ("l2", True),
    "gini_difference": ("gini", False),
}
_KEPT_COLUMNS = ("filler_count", "layer", "attention_kept", "prompts", "module")


def study_filler(
    opened: LoadedModel,
    documents: Sequence[Document],
    settings: RunSettings,
    counts: Sequence[int],
    progress: Progress,
    states: CheckpointFolder | None = None,
) -> FillerStudy:
    """Measure prompts without filler and with each number of filler tokens.

    Parameters
    ----------
    opened, documents
        The model, and prompts (or texts) of at most ``settings.max_length`` tokens with filler.
    settings
        ``filler``, ``filler_kind``, ``filler_position``, ``seed``, ``layers``, ``sites``,
        ``attention_layers`` and those of a run; ARM is off.
    counts
        Numbers of filler tokens, at least one above 0; 0 is always measured.
    progress, states
        As of `distviz.measure.run`, with checkpoints for each count.

    Raises
    ------
    RequestError
        If a prompt does not fit into a window, or a layer does not exist.
    MeasurementError
        If attention weights are not available in one of the ``attention_layers``.
    """
    from distviz.measure import attention_modules
    from distviz.studies import filler_positions

    chosen = _chosen(settings)
    layers = chosen.layers if chosen.attention_layers is None else chosen.attention_layers
    modules = attention_modules(opened.mlps, layers, "--attention-layers")
    bars = _bars(progress, counts)
    without = _measure(opened, documents, chosen, 0, modules, None, bars[0], states)
    runs, kept, changes, tokens = {0: without.run}, [*without.kept], [], []
    for count in list(bars)[1:]:
        bands = without.recorder.bands
        seen = _measure(opened, documents, chosen, count, modules, bands, bars[count], states)
        names = filler_positions.token_names(
            seen.corpus, opened.tokenizer, skip_special=chosen.skip_special
        )
        rows = (without.recorder.rows, seen.recorder.rows)
        tokens.append(filler_positions.token_changes(names, *rows, count))
        changes.append(_changes(without.run, seen.run, count, chosen.seed))
        runs[count] = seen.run
        kept += seen.kept
    of_tokens = pd.concat(tokens, ignore_index=True)
    return FillerStudy(
        _manifest(without, chosen, list(runs)),
        runs,
        pd.concat(changes, ignore_index=True),
        pd.DataFrame(kept, columns=list(_KEPT_COLUMNS)),
        filler_positions.by_distance(of_tokens, chosen.seed),
        of_tokens,
    )


def finished_study(
    folder: Path, settings: RunSettings, counts: Sequence[int]
) -> FillerStudy | None:
    """Return the study in a folder if it has the same request, else None."""
    from distviz.measure import refuse_changed

    found = FillerStudy.load(folder)
    known, chosen = found.runs[0].manifest, _chosen(settings)
    same_counts = sorted(found.runs) == sorted({0, *counts})
    if not same_counts or not chosen.asks_the_same(known.get("settings") or {}):
        return None
    refuse_changed(known, chosen, folder, read_prompts(settings))
    return found


def _chosen(settings: RunSettings) -> RunSettings:
    return replace(settings, arm_layers="none", classes="all")


@dataclass(frozen=True)
class _Measured:
    """The prompts with one number of filler tokens."""

    corpus: Corpus
    run: Run
    recorder: PositionRecorder
    kept: list[dict[str, Any]]
    warning: str | None


def _bars(progress: Progress, counts: Sequence[int]) -> dict[int, Progress]:
    """Return the progress of every measurement by its number of filler tokens, 0 first."""
    asked = [0, *sorted({*counts} - {0})]
    return {
        count: PartProgress(progress, f"{counted(count, 'filler token')} ({n} of {len(asked)})")
        for n, count in enumerate(asked, 1)
    }


def _measure(
    opened: LoadedModel,
    documents: Sequence[Document],
    settings: RunSettings,
    count: int,
    attention: Mapping[int, str],
    bands: Mapping[tuple[int, SiteKey], float] | None,
    progress: Progress,
    states: CheckpointFolder | None,
) -> _Measured:
    from distviz.hooks import PositionRecorder
    from distviz.measure import AttentionKept, Measurement, measure

    corpus = filled_corpus(opened, documents, settings, count)
    measurement = Measurement.prepare(opened, settings)
    plain = measurement.partial.recorder
    measurement.partial.recorder = PositionRecorder(
        plain.c, plain.class_layers, plain.channel_details, given=bands
    )
    own = {window.document: window.own for window in corpus.windows}
    kept = AttentionKept(measurement, attention, own)
    part = None if states is None else states.part(run_folder(count))
    with kept.watching():
        run = measure(
            opened,
            corpus,
            settings,
            progress,
            own_only=True,
            states=part,
            measurement=measurement,
        )
    progress.stop()
    recorder: Any = measurement.partial.recorder  # another one after a resume
    warning = kept.check(required=settings.attention_layers is not None)
    return _Measured(corpus, run, recorder, kept.rows(count), warning)


def _manifest(without: _Measured, settings: RunSettings, counts: list[int]) -> dict[str, Any]:
    names = ("filler_kind", "filler_position", "seed", "chat_template", "attention_layers")
    stated = without.run.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "filler",
        "filler": DEFAULT_FILLER if settings.filler is None else settings.filler,
        **{name: getattr(settings, name) for name in names},
        "counts": counts,
        "model": stated["model"],
        "text": stated["text"],
        "warnings": [*stated["warnings"], *filter(None, [without.warning])],
    }


def read_prompts(settings: RunSettings) -> list[Document]:
    """Read the prompts asked for; by default two dozen short word problems included in distviz."""
    from distviz.measure import documents_of

    if settings.names_text:
        return documents_of(settings)
    embedded = resources.files("distviz") / "demo" / "prompts.jsonl"
    with resources.as_file(embedded) as path:
        return documents_of(settings, [path])


def filled_corpus(
    opened: LoadedModel, documents: Sequence[Document], settings: RunSettings, count: int
) -> Corpus:
    """Tokenize prompts with filler tokens; RequestError if one is longer than a window."""
    from distviz.measure import corpus_of

    string = DEFAULT_FILLER if settings.filler is None else settings.filler
    asked = replace(settings, filler=string if count else None, filler_count=count, max_tokens=None)
    corpus = corpus_of(documents, opened, asked)
    cut = next((window for window in corpus.windows if not window.is_last), None)
    if cut is not None:
        raise RequestError(
            f"prompt '{documents[cut.document].id}' with {counted(count, 'filler token')} is "
            f"longer than "
            f"--max-length {settings.max_length}",
            "give a larger --max-length, smaller --counts, or a shorter prompt",
        )
    return corpus


def _changes(without: Run, with_filler: Run, count: int, seed: int) -> pd.DataFrame:
    """Return the rows of ``filler.csv`` for one number of filler tokens."""
    names = ["layer", "stack", "site", "module", "phase"]
    first, second = (
        run.documents.assign(variance=run.documents["std"] ** 2).set_index([*names, "document"])
        for run in (without, with_filler)
    )
    places = pd.MultiIndex.from_frame(first.reset_index()[names].drop_duplicates())
    frames = []
    for quantity, (column, is_log) in _QUANTITIES.items():
        x, y = (
            side.pivot_table(column, index=names, columns="document", sort=False, dropna=False)
            .reindex(places)
            .to_numpy(dtype=float)
            for side in (first, second)
        )
        if is_log:
            x, y = inference.log_positive(x), inference.log_positive(y)
        frame = inference.infer_means(x, y, quantity, paired=True, seed=seed)
        frame.insert(0, "quantity", quantity)
        frames.append(pd.concat([places.to_frame(index=False), frame], axis=1))
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "filler_count", count)
    order = [name for name in table if name not in ("module", "stack")]
    return table.loc[:, [*order, "module", "stack"]]
