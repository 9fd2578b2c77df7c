"""Two runs side by side: distances, inference over documents, channels; plain data.

A comparison folder holds both runs (``a/`` and ``b/``) beside its tables, so it can be shown and
drawn again by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from distviz import statistics
from distviz.errors import RequestError
from distviz.runs import COMPARISON, SCHEMA_VERSION, Run, read_manifest, records, staging
from distviz.sites import Key
from distviz.sketch import Sketch

__all__ = [
    "Comparison",
    "Pair",
    "channel_changes",
    "class_shares",
    "compare_manifest",
    "depth",
    "distances",
    "load",
    "pair_keys",
]

_TOP_CHANNELS = 50


class Pair(NamedTuple):
    """Two distributions that are set against each other."""

    a: Key
    b: Key


@dataclass(frozen=True)
class Comparison:
    """Run A against run B.

    Attributes
    ----------
    manifest
        Content of ``comparison.json``.
    a, b
        Both runs.
    pairs
        What was compared with what, in the order of A.
    table, inference, channels, classes
        ``compare.csv``, ``inference.csv``, ``channels.csv`` and ``classes.csv``.
    """

    manifest: dict[str, Any]
    a: Run
    b: Run
    pairs: list[Pair]
    table: pd.DataFrame
    inference: pd.DataFrame
    channels: pd.DataFrame
    classes: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name, as exported."""
        return {
            "compare": self.table,
            "inference": self.inference,
            "channels": self.channels,
            "classes": self.classes,
        }

    def sketches(self, pair: Pair) -> tuple[Sketch, Sketch]:
        """Return both distributions of a pair."""
        return self.a.merged[pair.a], self.b.merged[pair.b]

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        rows = {
            name: records(table)
            for name, table in (("compare", self.table), ("inference", self.inference))
        }
        return self.manifest | rows

    def write(self, folder: Path) -> None:
        """Write every file but the figures into an existing folder (not atomic, see `save`)."""
        for name, table in self.tables().items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, run in (("a", self.a), ("b", self.b)):
            (folder / name).mkdir()
            run.write(folder / name)
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the comparison folder without figures: complete, or not at all."""
        with staging(Path(folder), force=force) as place:
            self.write(place)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Read a comparison folder.

        Raises
        ------
        RequestError
            If it is not there, not a comparison, of another schema version, or damaged.
        """
        path = Path(folder)
        manifest = read_manifest(path, COMPARISON, "comparison")
        a, b = Run.load(path / "a"), Run.load(path / "b")
        tables = {}
        for name in ("compare", "inference", "channels", "classes"):
            try:
                tables[name] = pd.read_csv(path / f"{name}.csv")
            except pd.errors.EmptyDataError:
                tables[name] = pd.DataFrame()
            except (OSError, ValueError) as error:
                raise RequestError(f"{path / name}.csv is damaged: {error}") from error
        phases = manifest["phase_a"], manifest["phase_b"]
        pairs = pair_keys(a, b, *phases, manifest["sites"])
        return cls(
            manifest,
            a,
            b,
            pairs,
            tables["compare"],
            tables["inference"],
            tables["channels"],
            tables["classes"],
        )


def pair_keys(
    a: Run, b: Run, phase_a: str, phase_b: str, sites: Sequence[str] | None = None
) -> list[Pair]:
    """Pair the distributions of two runs: same stack and site, layer by relative depth.

    Models of equal depth are paired by index. Otherwise layer l of A (of n layers) meets the layer
    of B nearest to l / (n - 1) of its depth; a layer of B may serve more than one of A.

    Raises
    ------
    RequestError
        If the runs have no site and phase in common.
    """
    found = [
        Pair(key, partner)
        for key in _of_phase(a, phase_a, sites)
        if (partner := _partner(key, a, b, phase_b)) is not None
    ]
    if not found:
        offered = [
            f"{name}: {', '.join(sorted({f'{key.site}/{key.phase}' for key in run.keys}))}"
            for name, run in (("A", a), ("B", b))
        ]
        raise RequestError("the runs have no site and phase in common", "; ".join(offered))
    return found


def _of_phase(run: Run, phase: str, sites: Sequence[str] | None) -> Iterator[Key]:
    for key in run.keys:
        if key.phase == phase and (sites is None or key.site in sites):
            yield key


def depth(run: Run, stack: str) -> int:
    """Return the number of layers of a stack: the model's own, or what was observed."""
    seen = 1 + max((key.layer for key in run.keys if key.stack == stack), default=-1)
    number = (run.manifest.get("model") or {}).get("layers")
    return max(seen, number) if isinstance(number, int) else seen


def _partner(key: Key, a: Run, b: Run, phase: str) -> Key | None:
    n_a, n_b = depth(a, key.stack), depth(b, key.stack)
    layer = key.layer
    if n_a != n_b and layer >= 0:
        layer = round(key.layer / max(n_a - 1, 1) * (n_b - 1))
    there = [
        other
        for other in b.keys
        if (other.layer, other.stack, other.site, other.phase)
        == (layer, key.stack, key.site, phase)
    ]
    same = [other for other in there if other.module == key.module]
    return next(iter(same or there), None)


def distances(comparison_of: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``compare.csv``: every distance, exact from the sketches.

    ``near_zero_a`` and ``near_zero_b`` both use A's pooled eps; shifts are B minus A.
    """
    return pd.DataFrame([_distance_row(pair, a, b) for pair in comparison_of])


def _distance_row(pair: Pair, a: Run, b: Run) -> dict[str, Any]:
    first, second = a.merged[pair.a], b.merged[pair.b]
    eps = a.bands[pair.a]
    moved = statistics.wasserstein(first, second)
    std_a, std_b = first.std(), second.std()
    marks = np.array([0.01, 0.5, 0.99])
    shifts = second.quantile(marks) - first.quantile(marks)
    return {
        "layer_a": pair.a.layer,
        "layer_b": pair.b.layer,
        "site": pair.a.site,
        "phase_a": pair.a.phase,
        "phase_b": pair.b.phase,
        "ks": statistics.ks(first, second),
        "wasserstein": moved,
        "wasserstein_normalized": moved / std_a if std_a else np.nan,
        "js_divergence": statistics.js_divergence(first, second),
        "std_ratio": std_b / std_a if std_a else np.nan,
        "near_zero_a": statistics.near_zero(first, eps),
        "near_zero_b": statistics.near_zero(second, eps),
        "gini_a": statistics.gini(first),
        "gini_b": statistics.gini(second),
        "p1_shift": shifts[0],
        "p50_shift": shifts[1],
        "p99_shift": shifts[2],
        "module_a": pair.a.module,
        "module_b": pair.b.module,
        "stack": pair.a.stack,
    }


def channel_changes(pairs: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``channels.csv``: the channels that changed most, where the widths agree.

    A channel's ``change`` is the largest of abs(log std ratio), abs(mean shift) / std of A and
    abs(log absmax ratio); the 50 largest of each pair, most changed first. ``outlier_a`` and
    ``outlier_b`` are the channel's absmax over the median absmax of its side.
    """
    frames = []
    columns = ["layer", "stack", "site", "phase", "module"]
    sides = [run.channels.set_index(columns).sort_index() for run in (a, b) if len(run.channels)]
    if len(sides) < 2:
        return pd.DataFrame()
    for pair in pairs:
        rows = []
        for side, key in zip(sides, pair, strict=True):
            place = (key.layer, key.stack, key.site, key.phase, key.module)
            rows.append(side.loc[[place]].set_index("channel") if place in side.index else None)
        if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]):
            continue
        frames.append(_most_changed(pair, rows[0], rows[1]))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _most_changed(pair: Pair, first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    with np.errstate(divide="ignore", invalid="ignore"):
        std_change = np.abs(np.log(second["std"] / first["std"]))
        shift = np.abs(second["mean"] - first["mean"]) / first["std"]
        peak_change = np.abs(np.log(second["absmax"] / first["absmax"]))
    changes = np.stack([std_change, shift, peak_change])
    change = np.where(np.isnan(changes), 0.0, changes).max(axis=0)
    frame = pd.DataFrame(
        {"layer_a": pair.a.layer, "layer_b": pair.b.layer, "site": pair.a.site}
        | {"phase_a": pair.a.phase, "phase_b": pair.b.phase, "channel": first.index}
        | {f"std_{name}": side["std"].to_numpy() for name, side in (("a", first), ("b", second))}
        | {f"mean_{name}": side["mean"].to_numpy() for name, side in (("a", first), ("b", second))}
        | {f"absmax_{n}": side["absmax"].to_numpy() for n, side in (("a", first), ("b", second))}
        | {f"outlier_{name}": _outlier(side) for name, side in (("a", first), ("b", second))}
        | {"change": change, "stack": pair.a.stack, "module": pair.a.module}
    )
    return frame.nlargest(_TOP_CHANNELS, "change", keep="first")


def _outlier(side: pd.DataFrame) -> Any:
    median = float(side["absmax"].median())
    return side["absmax"].to_numpy() / median if median else np.full(len(side), np.nan)


def class_shares(pairs: Sequence[Pair], a: Run, b: Run) -> pd.DataFrame:
    """Return ``classes.csv``: near-zero share by token class, both sides by A's pooled eps.

    Rows only for classes that both sides keep apart.
    """
    rows = []
    tokens = [run.manifest.get("token_classes") or {} for run in (a, b)]
    for pair in pairs:
        first, second = a.sketches[pair.a], b.sketches[pair.b]
        eps = a.bands[pair.a]
        for name in first:
            if name == "all" or name not in second:
                continue
            rows.append(
                {"layer_a": pair.a.layer, "layer_b": pair.b.layer, "site": pair.a.site}
                | {"phase_a": pair.a.phase, "phase_b": pair.b.phase, "token_class": name}
                | {"tokens_a": tokens[0].get(name), "tokens_b": tokens[1].get(name)}
                | {"near_zero_a": statistics.near_zero(first[name], eps)}
                | {"near_zero_b": statistics.near_zero(second[name], eps)}
                | {"module_a": pair.a.module, "module_b": pair.b.module, "stack": pair.a.stack}
            )
    return pd.DataFrame(rows)


def compare_manifest(a: Run, b: Run, **more: Any) -> dict[str, Any]:
    """Return ``comparison.json`` without what the study adds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "model_a": a.manifest.get("model"),
        "model_b": b.manifest.get("model"),
        "text_a": a.manifest.get("text"),
        "text_b": b.manifest.get("text"),
        **more,
    }


def load(folder: str | Path) -> Run | Comparison:
    """Read a folder that distviz wrote, whichever kind it is."""
    if (Path(folder) / COMPARISON).exists():
        return Comparison.load(folder)
    return Run.load(folder)
