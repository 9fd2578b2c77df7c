"""A run: what was measured for one model, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from distviz.errors import RequestError
from distviz.parsing import parse_json
from distviz.results import agreement, counts_file, token_groups
from distviz.results.columns import Channel, Document, Expert, Extreme, FormatLoss, Plan, Row
from distviz.results.reading import Folder
from distviz.results.result import ByKeys, Result
from distviz.results.schema import SCHEMA_VERSION, Manifest, RunManifest, SavedText, check
from distviz.results.storage import RUN
from distviz.results.tables import records
from distviz.results.token_groups import PARTITIONS, TokenGroups, class_tokens
from distviz.results.token_rows import FILE as TOKENS
from distviz.results.token_rows import TokenFile, TokenRows
from distviz.sites import PHASES, SiteKey, key_order
from distviz.stats import HasMagnitudes, Sketch, bin_edges, checks_types, statistics

_KEY_COLUMNS = ["layer", "site", "phase", "module"]
_PAIRED = ("before", "after", "arm_input")
_TEXTS = "documents.jsonl"


@dataclass(frozen=True, repr=False)
class Run(ByKeys, Result):
    """One measured model.

    Attributes
    ----------
    manifest
        Content of ``run.json``.
    sketches
        For every key, a sketch per token class (``"all"`` where classes were not separated).
    documents, channels, plans, experts, extremes, formats
        The tables of the same names, see docs/files.md; ``experts`` is empty where no experts
        were observed, ``formats`` without ``--formats``.
    groups
        Magnitudes by role and by position of tokens, where classes were separated.
    tokens
        The rows of ``tokens.parquet``, which are not in memory; None without ``--tokens``.
    texts
        The measured documents, one dict per line of ``documents.jsonl``; None if not saved.
    """

    FILE: ClassVar[str] = RUN
    NOUN: ClassVar[str] = "run"
    SCHEMA: ClassVar[type[Manifest]] = RunManifest
    TABLES: ClassVar[dict[str, type[Row]]] = {
        "documents.parquet": Document,
        "channels.parquet": Channel,
        "plans.csv": Plan,
    }
    OPTIONAL: ClassVar[dict[str, type[Row]]] = {
        "experts.csv": Expert,
        "extremes.csv": Extreme,
        "formats.csv": FormatLoss,
    }

    sketches: dict[SiteKey, dict[str, Sketch]]
    documents: pd.DataFrame = field(default_factory=pd.DataFrame)
    channels: pd.DataFrame = field(default_factory=pd.DataFrame)
    plans: pd.DataFrame = field(default_factory=pd.DataFrame)
    texts: list[dict[str, Any]] | None = None
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)
    extremes: pd.DataFrame = field(default_factory=pd.DataFrame)
    formats: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: TokenGroups = field(default_factory=dict)
    tokens: TokenRows | TokenFile | None = None

    @property
    def keys(self) -> list[SiteKey]:
        """Every observed distribution, by layer, site (in the order of the layer) and phase."""
        return sorted(self.sketches, key=key_order)

    @property
    def c(self) -> float:
        """The c of the near-zero band: the run's own, or 0.13 without ARM."""
        arm = self.manifest.get("arm") or {}
        return float(arm.get("c", self.manifest.get("near_zero_c", statistics.DEFAULT_C)))

    @cached_property
    def merged(self) -> dict[SiteKey, Sketch]:
        """For every key, the sketch of all token classes together."""
        whole = {}
        for key in self.keys:
            total = Sketch()
            for sketch in self.sketches[key].values():
                total = total + sketch
            whole[key] = total
        return whole

    @cached_property
    def bands(self) -> dict[SiteKey, float]:
        """For every key, the eps of the phase ``before`` at the same place."""
        own: dict[SiteKey, float] = {}
        for key in self.keys:
            before = key._replace(phase="before")
            if before not in own:
                source = self.merged[before if before in self.merged else key]
                own[before] = statistics.near_zero_eps(source, self.c)
        return {key: own[key._replace(phase="before")] for key in self.keys}

    def _at(self, places: set[tuple[int, str]]) -> Run:
        chosen = {k: v for k, v in self.sketches.items() if (k.layer, k.site) in places}
        tokens = None if self.tokens is None else self.tokens.at(places)
        groups = {k: v for k, v in self.groups.items() if (k.layer, k.site) in places}
        return replace(super()._at(places), sketches=chosen, groups=groups, tokens=tokens)

    @checks_types
    def find(self, layer: int, site: str = "act", phase: str = "before") -> SiteKey:
        """Return the first key of a layer, site and phase.

        Raises
        ------
        RequestError
            If there is none; the message lists what the run has.
        """
        for key in self.keys:
            if (key.layer, key.site, key.phase) == (layer, site, phase):
                return key
        layers = sorted({key.layer for key in self.keys})
        sites = list(dict.fromkeys(key.site for key in self.keys))
        raise RequestError(
            f"the run has no layer {layer}, site {site}, phase {phase}",
            f"it has layers {layers[0]} to {layers[-1]}, sites {', '.join(sites)}, phases "
            f"{', '.join(dict.fromkeys(key.phase for key in self.keys))}",
        )

    @checks_types
    def sketch(self, layer: int, site: str = "act", phase: str = "before") -> Sketch:
        """Return one distribution, all token classes together."""
        return self.merged[self.find(layer, site, phase)]

    def stats(self) -> pd.DataFrame:
        """Return ``stats.csv`` as a DataFrame: one row per layer, site, phase and module."""
        return self._stats.copy()

    @cached_property
    def _stats(self) -> pd.DataFrame:
        rows = [
            _named(key)
            | statistics.describe(self.merged[key], self.bands[key])
            | {"stack": key.stack}
            | ({"mean_abs_change": self.mean_changes.get(key)} if self.mean_changes else {})
            for key in self.keys
        ]
        return pd.DataFrame(rows)

    @cached_property
    def mean_changes(self) -> dict[SiteKey, float]:
        """For keys of phase ``after``, the mean ``|after - before|`` where it was measured."""
        return {
            SiteKey(one["layer"], one["stack"], one["site"], "after", one["module"]): one["value"]
            for one in self.manifest.get("mean_abs_change") or ()
        }

    def places(self) -> dict[SiteKey, list[SiteKey]]:
        """Group the keys by place: the ``before`` key (or the first) -> the keys of all phases."""
        return dict(self._grouped)

    @cached_property
    def _grouped(self) -> dict[SiteKey, list[SiteKey]]:
        groups: dict[SiteKey, list[SiteKey]] = {}
        for key in self.keys:
            groups.setdefault(key._replace(phase=""), []).append(key)
        return {keys[0]: keys for keys in groups.values()}

    @checks_types
    def edges(self, key: SiteKey) -> Any:
        """Return the histogram edges of all phases at a key's place, float64."""
        phases = [self.merged.get(key._replace(phase=phase)) for phase in PHASES]
        return bin_edges([sketch for sketch in phases if sketch is not None])

    def histograms(self) -> pd.DataFrame:
        """Return ``histograms.csv``; the phases of a place share bins that cover all values."""
        order, parts = [], []
        for keys in self.places().values():
            edges = self.edges(keys[0])
            width = edges[1:] - edges[:-1]
            for key in keys:
                counts = statistics.histogram(self.merged[key], edges)
                density = counts / max(int(counts.sum()), 1) / width
                order.append(key)
                parts.append((edges[:-1], edges[1:], counts, density))
        rows = np.repeat(np.arange(len(order)), [len(part[0]) for part in parts])
        frame = pd.DataFrame(order).take(rows).reset_index(drop=True)
        names = ("bin_left", "bin_right", "count", "density")
        for name, column in zip(names, zip(*parts, strict=True), strict=True):
            frame[name] = np.concatenate(column)
        return frame[["layer", "site", "phase", *names, "module", "stack"]]

    def classes(self) -> pd.DataFrame:
        """Return ``classes.csv``: the near-zero share by token class, if classes were separated.

        The classes, then the roles, then the positions: each of these partitions has every token.
        """
        rows = []
        for partition in PARTITIONS:
            tokens = class_tokens(self.manifest, partition)
            for key in self.keys:
                for name, counts in self.partition(key, partition).items():
                    share = statistics.near_zero(counts, self.bands[key])
                    rows.append(
                        {"layer": key.layer, "site": key.site, "phase": key.phase}
                        | {"token_class": name, "tokens": tokens.get(name), "near_zero": share}
                        | {"module": key.module, "stack": key.stack, "partition": partition}
                    )
        columns = ["layer", "site", "phase", "token_class", "tokens", "near_zero"]
        return pd.DataFrame(rows, columns=[*columns, "module", "stack", "partition"])

    def partition(self, key: SiteKey, name: str) -> Mapping[str, HasMagnitudes]:
        """Return the distributions of the groups of tokens in one of `PARTITIONS`.

        Empty where they were not separated, and for phases of moved values alone.
        """
        if key.phase not in _PAIRED:
            return {}
        if name != "class":
            return self.groups.get(key, {}).get(name, {})
        return {} if set(self.sketches[key]) == {"all"} else self.sketches[key]

    @property
    def plot(self) -> Any:
        """The figures of this run."""
        from distviz.reports import RunPlots

        return RunPlots(self)

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints: parts of the manifest, and the statistics."""
        names = ("schema_version", "kind", "model", "arm", "text", "effect", "seconds", "warnings")
        tables = {"stats": self._stats} | ({"formats": self.formats} if len(self.formats) else {})
        found = {name: self.stated.get(name) for name in names}
        return found | {name: records(table) for name, table in tables.items()}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        found = {
            "stats": self.stats(),
            "histograms": self.histograms(),
            "plans": self.plans,
            "classes": self.classes(),
            "documents": self.documents,
            "channels": self.channels,
        }
        optional = {"extremes": self.extremes, "formats": self.formats, "experts": self.experts}
        return found | {name: table for name, table in optional.items() if len(table)}

    def _write_files(self, folder: Path) -> None:
        super()._write_files(folder)
        sketches = {key: self.sketches[key] for key in self.keys}
        counts_file.write(folder / "counts.parquet", sketches, SCHEMA_VERSION)
        if self.tokens is not None:
            self.tokens.write(folder / TOKENS)
        if self.groups:
            token_groups.write(folder / token_groups.FILE, self.groups)
        if self.texts is not None:
            lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in self.texts)
            (folder / _TEXTS).write_text("".join(lines), encoding="utf-8")

    @classmethod
    def _from_folder(cls, folder: Folder, tables: Sequence[pd.DataFrame]) -> Run:
        documents, channels, plans = tables
        data = folder.read("counts.parquet")
        try:
            sketches = counts_file.parse(data)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise folder.damaged("counts.parquet", error) from error
        texts = _read_texts(folder) if folder.has(_TEXTS) else None
        more: dict[str, Any] = cls._optional(folder, cls.OPTIONAL)
        more["tokens"] = TokenFile.of(folder)
        agreement.check_run(folder, sketches, documents, channels)
        more["groups"] = token_groups.read(folder, sketches)
        agreement.check_extremes(folder, sketches, more.get("extremes", pd.DataFrame()))
        if texts is not None and not agreement.is_text_of(texts, folder.manifest):
            folder.changed[_TEXTS] = None
        parts = (sketches, documents, channels, plans, texts)
        return cls(folder.manifest, *parts, **more, file_warnings=folder.changes())


def _read_texts(folder: Folder) -> list[dict[str, Any]]:
    """Read the documents; not by splitlines(), as JSON strings may contain U+2028 unescaped."""
    texts = []
    for number, line in enumerate(folder.read(_TEXTS).split(b"\n"), 1):
        if line:
            try:
                texts.append(parse_json(line))
                check(texts[-1], SavedText)
            except ValueError as error:
                raise folder.damaged(_TEXTS, f"line {number}: {error}") from error
    return texts


def _named(key: SiteKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in _KEY_COLUMNS}
