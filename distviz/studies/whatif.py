"""Questions that the sketches of a run answer with no model: what would zeros or fewer bits do?

Exact on the values of the sketches: for bf16 and fp16 data those are the data, fp32 data are held
rounded to bf16 (each value within 2^-8), and the answers are those for the rounded values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import RequestError, nearest
from distviz.results import COLUMNS, RUN, SCHEMA_VERSION, Run, WhatIf, choose_places
from distviz.sites import PHASES, SiteKey, parse_layers, parse_sites
from distviz.stats import FORMATS, RANGES, Sample, fit, prune, threshold_for

__all__ = ["WhatIfRequest", "evaluate_whatif", "parse_whatif", "read_run"]


@dataclass(frozen=True, kw_only=True)
class WhatIfRequest:
    """What is asked.

    Attributes
    ----------
    levels
        Shares of zeros, above 0 and at most 1; fractions, so that 70 % of 10 values are 7.
    thresholds
        Magnitudes.
    formats, ranges
        Names of `FORMATS` and `RANGES`.
    percentile
        For the range of that name, above 0 and at most 100.
    phases
        Names of `PHASES`; those that a place does not have are passed over.
    layers, sites
        As of ``distviz run``; None takes all.
    """

    levels: tuple[Fraction, ...] = tuple(Fraction(tenth, 10) for tenth in range(1, 10))
    thresholds: tuple[float, ...] = ()
    formats: tuple[str, ...] = tuple(FORMATS)
    ranges: tuple[str, ...] = tuple(RANGES)
    percentile: float = 99.9
    phases: tuple[str, ...] = ("before", "after")
    layers: str | None = None
    sites: str | None = None

    def kinds(self) -> Iterator[tuple[str, str]]:
        """Yield every format with every range that it can have."""
        for name in self.formats:
            for range_ in self.ranges:
                if range_ != "none" or FORMATS[name].is_float:
                    yield name, range_


def parse_whatif(
    *,
    sparsity: str | None = None,
    thresholds: str | None = None,
    formats: str | None = None,
    ranges: str | None = None,
    percentile: float | None = None,
    phases: str | None = None,
    layers: str | None = None,
    sites: str | None = None,
) -> WhatIfRequest:
    """Read the options of ``distviz whatif``; None takes what `WhatIfRequest` says.

    ``sparsity`` is in percent. ``none`` leaves out all levels of sparsity, or all formats.

    Raises
    ------
    RequestError
        If an option is malformed, or nothing is left to ask.
    """
    asked: dict[str, Any] = {"layers": layers, "sites": sites}
    if sparsity is not None:
        asked["levels"] = _levels(sparsity)
    if thresholds is not None:
        asked["thresholds"] = _thresholds(thresholds)
    for name, text, allowed in (
        ("formats", formats, FORMATS),
        ("ranges", ranges, RANGES),
        ("phases", phases, PHASES),
    ):
        if text is not None:
            asked[name] = _names(name, text, allowed)
    if percentile is not None:
        if not 0 < percentile <= 100:
            raise RequestError(
                f"--percentile {percentile:g}: give a number above 0, at most 100", "such as 99.9"
            )
        asked["percentile"] = percentile
    questions = WhatIfRequest(**asked)
    if questions.formats and not list(questions.kinds()):
        raise RequestError(
            f"--ranges {ranges}: integers have no range of their own",
            "give max, percentile or mse, or fp8 among --formats",
        )
    if not (questions.levels or questions.thresholds or questions.formats):
        raise RequestError(
            "there is nothing to ask", "give levels to --sparsity, --thresholds or --formats"
        )
    return questions


def _levels(text: str) -> tuple[Fraction, ...]:
    if text.strip().lower() == "none":
        return ()
    try:
        levels = {Fraction(word.strip().rstrip("%")) / 100 for word in text.split(",")}
    except (ValueError, ZeroDivisionError):
        levels = {Fraction(0)}
    if not all(0 < level <= 1 for level in levels):
        raise RequestError(
            f"--sparsity '{text}' is not a list of percentages above 0, at most 100",
            "such as 50,90, or none",
        )
    return tuple(sorted(levels))


def _thresholds(text: str) -> tuple[float, ...]:
    try:
        found = {float(word) for word in text.split(",")}
    except ValueError:
        found = {math.nan}
    if not all(math.isfinite(value) and value >= 0 for value in found):
        raise RequestError(
            f"--thresholds '{text}' is not a list of magnitudes", "such as 0.01,0.1; none below 0"
        )
    return tuple(sorted(found))


def _names(option: str, text: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the order of ``allowed``; ``none`` alone leaves all formats out."""
    known = list(allowed)
    if option == "formats" and text.strip().lower() == "none":
        return ()
    names = [word.strip().lower() for word in text.split(",") if word.strip()]
    for name in names or [text]:
        if name not in known:
            raise RequestError(
                f"--{option} {text}: unknown {option[:-1]} '{name}'{nearest(name, known)}",
                f"allowed: {', '.join(known)}",
            )
    return tuple(name for name in known if name in names)


def read_run(folder: Path) -> Run:
    """Read the run folder that is asked about.

    Raises
    ------
    RequestError
        If it is none, or damaged; runs inside it are named, such as both sides of a comparison.
    """
    if folder.is_dir() and not (folder / RUN).exists():
        inside = sorted(path.parent for path in folder.glob(f"*/{RUN}"))
        if inside:
            raise RequestError(
                f"{folder} is not a run, it holds {len(inside)} of them",
                f"ask about one: {', '.join(map(str, inside[:4]))}",
            )
    return Run.load(folder)


def evaluate_whatif(run: Run, questions: WhatIfRequest, source: str = "") -> WhatIf:
    """Answer the questions about a run.

    Parameters
    ----------
    run
        What was measured.
    questions
        What is asked.
    source
        The run's folder, for the manifest.

    Raises
    ------
    RequestError
        If the run has none of the layers, sites or phases.
    """
    layers, sites = questions.layers, questions.sites
    places = choose_places(
        ((key.layer, key.site) for key in run.keys),
        None if layers is None else parse_layers(layers, run.n_layers),
        None if sites is None else parse_sites(sites),
        "run",
    )
    there = [key for key in run.keys if (key.layer, key.site) in places]
    keys = [key for key in there if key.phase in questions.phases]
    if not keys:
        known = ", ".join(dict.fromkeys(key.phase for key in there))
        raise RequestError(
            f"the run has no phase {' or '.join(questions.phases)} there", f"it has {known}"
        )
    rows = [row for key in keys for row in _answers(run, key, questions)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    texts = ["format", "range"]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    return WhatIf(_manifest(run, keys, questions, source), table.astype({"zero_point": "Int64"}))


def _answers(run: Run, key: SiteKey, questions: WhatIfRequest) -> Iterator[dict[str, Any]]:
    sample = Sample.of(run.merged[key])
    place = key._asdict()
    for level in questions.levels:
        threshold = threshold_for(*sample.magnitude_pairs, level)
        pruned = asdict(prune(*sample.magnitude_pairs, threshold))
        yield place | {"question": "sparsity", "level": float(level)} | pruned
    for threshold in questions.thresholds:
        yield place | {"question": "threshold"} | asdict(prune(*sample.magnitude_pairs, threshold))
    for name, range_ in questions.kinds():
        quantizer = fit(sample, FORMATS[name], range_, questions.percentile)
        scaled = {
            "clip_low": quantizer.lowest,
            "clip_high": quantizer.highest,
            "scale": quantizer.scale,
            "zero_point": quantizer.zero_point if quantizer.format.is_asymmetric else None,
        }
        asked = {"question": "format", "format": name, "range": range_}
        yield place | asked | scaled | asdict(sample.measure(quantizer))


def _manifest(
    run: Run, keys: Sequence[SiteKey], questions: WhatIfRequest, source: str
) -> dict[str, Any]:
    told = {name: run.manifest.get(name) for name in ("model", "arm", "text", "dtype")}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "whatif",
        "run": source,
        **told,
        "sparsity": [float(level) for level in questions.levels],
        "thresholds": list(questions.thresholds),
        "formats": list(questions.formats),
        "ranges": list(questions.ranges),
        "percentile": questions.percentile,
        "phases": list(dict.fromkeys(key.phase for key in keys)),
        "is_rounded": any(run.merged[key].is_rounded for key in keys),
        "warnings": list(_warnings(run, keys)),
    }


def _warnings(run: Run, keys: Sequence[SiteKey]) -> Iterator[str]:
    holes = [key for key in keys if run.merged[key].nan or run.merged[key].inf]
    if holes:
        nan, inf = (sum(getattr(run.merged[key], name) for key in holes) for name in ("nan", "inf"))
        first = holes[0]
        where = f"layer {first.layer}, {first.site}, {first.phase}"
        more = f" and {len(holes) - 1} more" if len(holes) > 1 else ""
        yield f"{nan:,} NaN and {inf:,} infinite values are left out ({where}{more})"
