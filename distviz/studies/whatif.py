"""The study of `distviz whatif`: the effect of zeros and number formats on the values of a run.

It needs no model. Results are exact for the values of the sketches, which are the data for bf16 and
fp16; fp32 data are rounded to bf16 there (each value within 2^-8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from distviz.errors import RequestError, nearest
from distviz.option import no_effect
from distviz.output import counted, listed
from distviz.parsing import amount, word_list
from distviz.results import (
    COLUMNS,
    HALF,
    SCHEMA_VERSION,
    TOP,
    WHOLE,
    Run,
    WhatIf,
    channel_energies,
    choose_places,
    percent,
    place_name,
    records,
    runs_inside,
)
from distviz.sites import PHASES, SiteKey, parse_layers, parse_sites
from distviz.stats import FORMATS, RANGES, Sample, fit, threshold_for

_HOLDERS = {
    "value_energy": "one value holds",
    "channel_energy": "one channel holds",
    "top_energy": f"{TOP} hold",
}
"""Columns, from the narrowest, and how they are read."""


@dataclass(frozen=True, kw_only=True)
class WhatIfRequest:
    """The levels, thresholds and formats to evaluate.

    Attributes
    ----------
    levels
        Shares of zeros, above 0 and at most 1; exact fractions, so that 70 % of 10 values are 7.
    thresholds
        Magnitudes.
    formats, ranges
        Names of `FORMATS` and `RANGES`.
    percentile
        Of the range ``percentile``, above 0 and at most 100.
    phases
        Names of `PHASES`; a phase that a place does not have is skipped.
    layers, sites
        As of ``distviz run``; None selects all.
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
        """Yield every format with every range that it supports."""
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
    """Parse the options of ``distviz whatif``; None means the default of `WhatIfRequest`.

    ``sparsity`` is in percent. ``none`` means no levels of sparsity, or no formats.

    Raises
    ------
    RequestError
        If an option is malformed, or nothing remains to evaluate.
    """
    values: dict[str, Any] = {"layers": layers, "sites": sites}
    if sparsity is not None:
        values["levels"] = _levels(sparsity)
    if thresholds is not None:
        values["thresholds"] = _thresholds(thresholds)
    for name, text, allowed in (
        ("formats", formats, FORMATS),
        ("ranges", ranges, RANGES),
        ("phases", phases, PHASES),
    ):
        if text is not None:
            values[name] = _names(name, text, allowed)
    if percentile is not None:
        if not 0 < percentile <= 100:
            raise RequestError(
                f"--percentile {percentile:g}: give a number above 0, at most 100", "such as 99.9"
            )
        values["percentile"] = percentile
    request = WhatIfRequest(**values)
    if request.formats and not list(request.kinds()):
        raise RequestError(
            f"--ranges {ranges}: integer formats need a range",
            "give max, percentile or mse, or an fp8 format to --formats",
        )
    if percentile is not None and not any(range_ == "percentile" for _, range_ in request.kinds()):
        raise no_effect("--percentile", "without a format of that range")
    if ranges is not None and not request.formats:
        raise no_effect("--ranges", "with --formats none")
    if not (request.levels or request.thresholds or request.formats):
        raise RequestError(
            "there is nothing to evaluate", "give values to --sparsity, --thresholds or --formats"
        )
    return request


def _levels(text: str) -> tuple[Fraction, ...]:
    if text.strip().lower() == "none":
        return ()
    levels = {amount(word, "--sparsity", "percent") / 100 for word in text.split(",")}
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
    """Return the names in the order of ``allowed``; ``none`` means no formats."""
    known = list(allowed)
    if option == "formats" and text.strip().lower() == "none":
        return ()
    names = word_list(text.lower(), f"--{option}")
    for name in names:
        if name not in known:
            raise RequestError(
                f"--{option} {text}: unknown {option[:-1]} '{name}'{nearest(name, known)}",
                f"allowed: {', '.join(known)}{', or none' * (option == 'formats')}",
            )
    return tuple(name for name in known if name in names)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises
    ------
    RequestError
        If it is no run, or damaged; runs inside it are named, such as the sides of a comparison.
    """
    if inside := runs_inside(folder):
        raise RequestError(
            f"{folder} is not a run, it contains {counted(len(inside), 'run')}",
            f"give one of them: {', '.join(map(str, inside[:4]))}",
        )
    return Run.load(folder)


def evaluate_whatif(run: Run, request: WhatIfRequest, source: str = "") -> WhatIf:
    """Evaluate a request on a run; ``source`` is the run's folder, for the manifest.

    Raises
    ------
    RequestError
        If the run has none of the layers, sites or phases.
    """
    layers, sites = request.layers, request.sites
    places = choose_places(
        ((key.layer, key.site) for key in run.keys),
        None if layers is None else parse_layers(layers, run.n_layers),
        None if sites is None else parse_sites(sites, known={key.site for key in run.keys}),
        "run",
    )
    there = [key for key in run.keys if (key.layer, key.site) in places]
    keys = [key for key in there if key.phase in request.phases]
    if not keys:
        known = ", ".join(dict.fromkeys(key.phase for key in there))
        raise RequestError(
            f"the run has no phase {' or '.join(request.phases)} there", f"it has {known}"
        )
    channels = channel_energies(run)
    rows = [row for key in keys for row in _evaluate(run, key, request, channels)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    texts = ["format", "range"]
    table[texts] = table[texts].astype(object).where(table[texts].notna(), "")
    _rank(table)
    table = table.astype(dict.fromkeys(WHOLE, "Int64"))
    return WhatIf(_manifest(run, keys, request, source, table), table)


def _rank(table: pd.DataFrame) -> None:
    """Add the rank of each place among those that answer the same question, 1 the highest."""
    asked = ["site", "phase", "question", "level", "format", "range", "threshold"]
    # The threshold is the answer where a level is the question.
    answers = table[asked].assign(threshold=table["threshold"].where(table["level"].isna()))
    for rank, energies, ratio in (
        ("rank", "l2_kept", "sqnr_db"),
        ("rank_rest", "l2_kept_rest", "sqnr_rest_db"),
    ):
        by = table[energies].where(table["question"] != "format", table[ratio]).astype(float)
        groups = by.groupby([answers[name] for name in asked], dropna=False)
        table[rank] = groups.rank(ascending=False, method="min")


def _evaluate(
    run: Run,
    key: SiteKey,
    request: WhatIfRequest,
    channels: Mapping[SiteKey, tuple[int, float]],
) -> Iterator[dict[str, Any]]:
    sample = Sample.of(run.merged[key])
    held = sample.energy_shares
    channel = channels.get(key, (None, math.nan))
    names = ("top_energy", "value_energy", "channel", "channel_energy")
    place = key._asdict() | dict(zip(names, held + channel, strict=True))
    for level in request.levels:
        pruned = asdict(sample.prune(threshold_for(*sample.magnitude_pairs, level)))
        yield place | {"question": "sparsity", "level": float(level)} | pruned
    for threshold in request.thresholds:
        yield place | {"question": "threshold"} | asdict(sample.prune(threshold))
    for name, range_ in request.kinds():
        quantizer = fit(sample, FORMATS[name], range_, request.percentile)
        scaled = {
            "clip_low": quantizer.lowest,
            "clip_high": quantizer.highest,
            "scale": quantizer.scale,
            "zero_point": quantizer.zero_point if quantizer.format.is_asymmetric else None,
        }
        asked = {"question": "format", "format": name, "range": range_}
        yield place | asked | scaled | asdict(sample.measure(quantizer))


def _manifest(
    run: Run, keys: Sequence[SiteKey], request: WhatIfRequest, source: str, table: pd.DataFrame
) -> dict[str, Any]:
    copied = {name: run.manifest.get(name) for name in ("model", "arm", "text", "dtype")}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "whatif",
        "run": source,
        **copied,
        "sparsity": [float(level) for level in request.levels],
        "thresholds": list(request.thresholds),
        "formats": list(request.formats),
        "ranges": list(request.ranges),
        "percentile": request.percentile,
        "phases": list(dict.fromkeys(key.phase for key in keys)),
        "is_rounded": any(run.merged[key].is_rounded for key in keys),
        "warnings": [*run.file_warnings, *_warnings(run, keys), *_decided(table)],
    }


def _warnings(run: Run, keys: Sequence[SiteKey]) -> Iterator[str]:
    holes = [key for key in keys if run.merged[key].nan or run.merged[key].inf]
    if holes:
        nan, inf = (sum(getattr(run.merged[key], name) for key in holes) for name in ("nan", "inf"))
        first = holes[0]
        where = f"layer {first.layer}, {first.site}, {first.phase}"
        more = f" and {len(holes) - 1} more" if len(holes) > 1 else ""
        yield f"{nan:,} NaN and {counted(inf, 'infinite value')} are left out ({where}{more})"


def _decided(table: pd.DataFrame) -> Iterator[str]:
    """Yield where one value, one channel, or the largest values hold most of the energy."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records(table.drop_duplicates(["stack", "layer", "site", "phase", "module"])):
        holder = next((name for name in _HOLDERS if (row[name] or 0) >= HALF), None)
        if holder is not None:
            found.setdefault((row["site"], holder), []).append(row)
    for (site, holder), rows in found.items():
        worst = max(rows, key=lambda row: float(row[holder]))
        number = f", channel {worst['channel']}" if holder == "channel_energy" else ""
        layers = listed("layer", ", ".join(dict.fromkeys(map(place_name, rows))))
        yield (
            f"{site}: {_HOLDERS[holder]} at least half of the energy in {layers} "
            f"({percent(worst[holder])} in layer {place_name(worst)}{number}): SQNR and energy "
            "kept tell little about the other values there; compare them without the largest 0.01 %"
        )
