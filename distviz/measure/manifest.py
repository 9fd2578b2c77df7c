"""The `Run` of a measurement, and the manifest that records how it was made."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
import torch

from distviz.arm import ARM, code_fingerprint
from distviz.data import Batch, Corpus
from distviz.hooks import HELD_BYTES, TOKEN_CLASSES, count_tokens, experts_of, replaced
from distviz.measure.finished import contents
from distviz.measure.forward import Measurement
from distviz.measure.world import current
from distviz.models import LoadedModel
from distviz.models.architectures import linear_inputs, linear_left_out
from distviz.output import counted, visible
from distviz.progress import Progress
from distviz.results import SCHEMA_VERSION, Run, TokenRows
from distviz.settings import RunSettings, names_affecting
from distviz.sites import SiteKey

_SHOWN = 3


def assemble(measurement: Measurement, corpus: Corpus, batches: list[Batch], seconds: float) -> Run:
    """Return the run of a finished measurement, which took ``seconds``."""
    settings, opened, partial = measurement.settings, measurement.opened, measurement.partial
    keep = settings.keep_text and bool(corpus.documents)
    result = partial.recorder.with_tables(
        Run(
            manifest=_manifest(measurement, corpus, batches, seconds),
            sketches=partial.recorder.sketches,
            documents=partial.recorder.documents.frame(),
            channels=partial.recorder.channels(),
            plans=partial.plan_table(),
            texts=[document.as_dict() for document in corpus.documents] if keep else None,
        ),
        opened.tokenizer,
    )
    if (writer := partial.recorder.tokens) is not None:
        ids = {token for window in corpus.windows for token in np.unique(window.ids).tolist()}
        decode = opened.tokenizer.decode if opened.tokenizer is not None else lambda _: ""
        texts = {token: visible(decode([token])) for token in ids}
        rows = TokenRows(writer.all_files(), texts, writer.temporary)
        result = replace(result, tokens=rows)
    result.manifest.update(_linear_layers(measurement, result.channels))
    result.manifest["warnings"] = [
        *opened.details.get("warnings", []),
        *_replaced(measurement),
        *_unpaired(partial.recorder.changes.incomplete),
        *_warnings(result, corpus),
    ]
    return result


def _linear_layers(measurement: Measurement, channels: pd.DataFrame) -> dict[str, Any]:
    """Return the linear layers that read the counted channels, and those whose input is at no site.

    A place that was not reached, or whose streams of a token were counted as its channels, is the
    input of none.
    """
    if channels.empty:
        return {}
    model, watched = measurement.opened.model, measurement.watched
    last = channels.groupby(["site", "module"])["channel"].max()
    inputs = linear_inputs(model, watched, (last + 1).to_dict())
    return {
        "linear_inputs": inputs,
        "linear_left_out": linear_left_out(model, watched, inputs),
    }


def _manifest(
    measurement: Measurement, corpus: Corpus, batches: list[Batch], seconds: float
) -> dict[str, Any]:
    settings, opened = measurement.settings, measurement.opened
    arm = None
    if measurement.moved:
        arm = {
            "redistribution": settings.redistribution,
            "at": settings.at,
            "layers": sorted({point.layer for point in measurement.moved}),
            "ripple": settings.ripple,
            **{field.name: getattr(settings.arm(), field.name) for field in fields(ARM)},
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "run",
        "settings": settings.as_dict(),
        "arm": arm,
        "mean_abs_change": [
            {**key._asdict(), "value": value}
            for key, value in sorted(measurement.partial.recorder.changes.means().items())
        ],
        "effect": measurement.partial.effect.result(is_paired=measurement.is_paired),
        **describe(opened, corpus, batches, (settings,)),
        "seconds": {"measure": round(seconds, 3)},
        "warnings": [],
    }


def describe(
    opened: LoadedModel, corpus: Corpus, batches: list[Batch], settings: Sequence[RunSettings]
) -> dict[str, Any]:
    """Return the entries of any manifest for model, text, versions and device.

    ``settings`` are those of all passes.
    """
    counted = np.concatenate([batch.classes[batch.counted] for batch in batches])
    details = {name: value for name, value in opened.details.items() if name != "warnings"}
    if opened.on_disk is not None:
        details["loaded"] = opened.on_disk.summary()
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": {"name": opened.name, **details},
        "text": {
            "sha256": corpus.sha256,
            "documents": len({window.document for window in corpus.windows}),
            "windows": len(corpus.windows),
            "tokens": corpus.tokens,
            "counted": int(counted.size),
            "truncated": corpus.truncated,
        },
        "contents": contents([one.redistribution for one in settings], settings[0].arm()),
        "token_classes": {
            name: int((counted == index).sum()) for index, name in enumerate(TOKEN_CLASSES)
        },
        "token_groups": count_tokens(batches),
        "versions": versions(),
        "device": str(opened.details.get("device")),
        "dtype": str(opened.details.get("dtype")),
        "processes": current().size,
        "threads": torch.get_num_threads(),
    }


def request(
    opened: LoadedModel,
    settings: RunSettings,
    corpus: Corpus,
    batches: list[Batch],
    *,
    own_only: bool = False,
    tried: Sequence[RunSettings] = (),
) -> dict[str, str]:
    """Return what must agree between processes and for a resume, by the name that users know.

    Everything that decides the numbers is in it: settings by value, files by their content.
    ``tried`` are the settings of a study's passes.
    """
    given = settings.as_dict()
    counted = (*names_affecting("tokens", "arm", "counts"), "layer")
    details = opened.details
    names = ("fingerprint", "architecture", "dtype")
    return {
        **{f"model {name}": str(details.get(name)) for name in names},
        "device": str(details.get("device")).partition(":")[0],
        "model code": code_fingerprint(map(type, opened.model.modules()), versions()),
        "text": corpus.sha256,
        "tokens": str(corpus.tokens),
        "tokenized text": _fingerprint(batches),
        **contents([one.redistribution for one in (settings, *tried)], settings.arm()),
        "batches": str(len(batches)),
        "own tokens only": str(own_only),
        **{f"--{n.replace('_', '-')}": str(v) for n, v in given.items() if n in counted},
        "threads": str(torch.get_num_threads()),
        **versions(),
    }


def _fingerprint(batches: Iterable[Batch]) -> str:
    """Return a digest of what the tokenizer made of the text."""
    digest = hashlib.sha256()
    for batch in batches:
        for array in (batch.ids, batch.valid, batch.counted, batch.classes, batch.roles):
            digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("distviz", "torch", "transformers", "numba", "numpy", "pandas", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _warnings(result: Run, corpus: Corpus) -> list[str]:
    """Return the warnings of a run."""
    found = [*corpus.notes]
    broken = {key: s for key, s in result.merged.items() if s.nan or s.inf}
    if broken:
        nan, inf = (sum(getattr(s, name) for s in broken.values()) for name in ("nan", "inf"))
        places = sorted({key.layer for key in broken})
        found.append(
            f"{nan} NaN and {counted(inf, 'infinite value')}, first in layer {places[0]} "
            f"({counted(len(places), 'layer')}); statistics exclude them"
        )
    found += _constant(result)
    found += _unvisited(result.experts)
    effect = result.manifest["effect"]
    if effect is not None and effect["loss_before"] is None:
        found.append("the next-token loss is not finite")
    return found


def _constant(result: Run) -> list[str]:
    """Return a warning where all values of a distribution are equal, as in a model of zeros."""
    same = [key for key in result.keys if (s := result.merged[key]).count > 1 and s.min == s.max]
    if not same:
        return []
    first, value = same[0], result.merged[same[0]].min
    places = f"{len(same)} of {counted(len(result.keys), 'distribution')}"
    where = f"layer {first.layer}, {first.site}, {first.phase}"
    return [f"all values are equal in {places}, first {value:g} in {where}"]


def _replaced(measurement: Measurement) -> list[str]:
    """Return a warning where experts ran on another implementation than the model's own."""
    why = "ARM needs all their values at once", "it hides their activation"
    points = experts_of(measurement.moved), experts_of(measurement.watched)
    for paths, at_once, reason in zip(points, (True, False), why, strict=True):
        for name in replaced(measurement.opened.model, paths, at_once=at_once):
            return [f"the experts ran on grouped_mm instead of {name}: {reason}"]
    return []


def _unpaired(missing: Mapping[SiteKey, str]) -> Iterator[str]:
    """Yield a warning for each reason why ``mean_abs_change`` is empty, with the first place."""
    reasons = {
        "memory": f"the values of a batch exceed {HELD_BYTES >> 20} MiB; "
        "a smaller --batch-size or fewer --sites may fit",
        "tokens": "the passes without and with ARM have other tokens there, as in routed experts",
    }
    for reason, text in reasons.items():
        places = sorted(place for place, why in missing.items() if why == reason)
        if places:
            first, more = f"layer {places[0].layer}, {places[0].site}", len(places) - 1
            others = f" and {counted(more, 'more place')}" if more else ""
            yield f"mean_abs_change is not measured in {first}{others}: {text}"


def _unvisited(experts: pd.DataFrame) -> list[str]:
    """Return a warning with the experts that no token was routed to, without ARM."""
    if experts.empty:
        return []
    # Every site of a layer has the same tokens.
    one = experts[(experts["phase"] == "before") & (experts["site"] == experts["site"].iloc[0])]
    idle = one[one["tokens"] == 0]
    if idle.empty:
        return []
    places = [
        f"layer {layer}: {', '.join(map(str, rows['expert']))}"
        for (_, layer, _), rows in idle.groupby(["stack", "layer", "module"])
    ]
    shown = "; ".join(places[:_SHOWN]) + ("; ..." if len(places) > _SHOWN else "")
    return [f"{len(idle)} of {counted(len(one), 'expert')} received no token ({shown})"]


def note_truncated(corpus: Corpus, settings: RunSettings, progress: Progress) -> None:
    """Say that ``--max-tokens`` cut the text; only while it is measured, it was asked for."""
    if settings.max_tokens is not None and corpus.truncated:
        progress.note(f"warning: --max-tokens {settings.max_tokens} left part of the text out")
