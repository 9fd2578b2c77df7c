"""What each manifest of a result may hold: fields, types and ranges; tables are in `columns`.

A field that is not declared here is allowed and kept. A declared field must have its type, and
must be there unless it has a default.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from distviz.sites import ACT

SCHEMA_VERSION = 3
"""Changes whenever the meaning of a file changes; other versions are refused."""

MOST_LAYERS = 10_000
"""More layers than any model has; a larger index in a file is damage."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Tally = Annotated[int, Meta(ge=0, le=2**53)]
"""Of values or tokens; sums of many stay within int64."""
Layers = Annotated[int, Meta(ge=0, le=MOST_LAYERS)]
Layer = Annotated[int, Meta(ge=-1, le=MOST_LAYERS - 1)]
"""0-based; -1 is outside the layers."""
Number = float
"""NaN is not allowed, infinities are."""
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Positive = Annotated[float, Meta(ge=0)]
"""0 or more, or infinite."""
Share = Annotated[float, Meta(ge=-1e-6, le=1 + 1e-6)]
"""0 to 1; sums may exceed them by rounding."""
FileName = Annotated[str, Meta(pattern=r"^(\w+/)?\w[\w.]*\Z")]
"""Of a file in the folder or in a folder in it."""
Phase = Literal["before", "after", "arm_input", "moved_before", "moved_after"]
Partition = Literal["class", "role", "position"]


class Model(Struct, kw_only=True):
    """The measured model."""

    name: str | None = None
    path: str | None = None
    source: str | None = None
    architecture: str | None = None
    model_type: str | None = None
    activation: str | None = None
    dtype: str | None = None
    device: str | None = None
    fingerprint: str | None = None
    revision: str | None = None
    layers: Layers | None = None
    hidden_size: Count | None = None
    intermediate_size: Count | None = None
    parameters: Count | None = None
    gated: bool | None = None
    rope: bool | None = None


class NamedModel(Model, kw_only=True):
    """A model whose name is needed."""

    name: str


class Sample(Struct, kw_only=True):
    """The measured text."""

    sha256: str | None = None
    documents: Count | None = None
    windows: Count | None = None
    tokens: Count | None = None
    counted: Count | None = None
    truncated: bool | None = None


class Arm(Struct, kw_only=True):
    """The redistribution."""

    redistribution: str | None = None
    at: str = ACT
    layers: list[Layer] = []
    ripple: bool | None = None
    c: Positive | None = None
    p1: Finite | None = None
    p_min: Finite | None = None
    p_max: Finite | None = None
    fraction: Share | None = None
    mode: str | None = None
    percentile_of: str | None = None
    passes: Count = 1
    seed: Integer | None = None


class SavedText(Struct, kw_only=True):
    """A line of ``documents.jsonl``."""

    id: str = ""
    text: str = ""
    system: str = ""
    question: str = ""
    messages: list[dict[str, str]] = []


class SketchNote(Struct, kw_only=True):
    """What ``counts.parquet`` says of one sketch beside its rows."""

    layer: Layer
    site: str
    phase: Phase
    module: str
    token_class: str
    stack: str
    grid: Literal["bf16", "fp16"] | None
    nan: Tally
    inf: Tally
    zeros: Tally
    min: Finite | None
    max: Finite | None
    is_rounded: bool
    moments: tuple[Tally, float, Positive]
    higher: tuple[float, Positive, Positive] | None
    cells: Annotated[int, Meta(ge=0, le=65_536)]


class CountsNote(Struct, kw_only=True):
    """The metadata of ``counts.parquet``."""

    schema_version: int
    sketches: list[SketchNote]


class GroupNote(Struct, kw_only=True):
    """The entry of the magnitudes of a group of tokens."""

    layer: Layer
    site: str
    phase: Phase
    module: str
    stack: str
    partition: Partition
    token_class: str
    cells: Annotated[int, Meta(ge=0, le=32_768)]


class GroupsNote(Struct, kw_only=True):
    """The metadata of ``token_groups.parquet``."""

    schema_version: int
    groups: list[GroupNote]


class Effect(Struct, kw_only=True):
    """What the redistribution does to the model's output."""

    loss_before: Finite | None = None
    loss_after: Finite | None = None
    kl: Finite | None = None
    top1_agreement: Share | None = None
    positions: Count | None = None


class Output(Struct, kw_only=True):
    """The output of two models, compared."""

    loss_a: Finite | None = None
    loss_b: Finite | None = None
    kl: Finite | None = None
    top1_agreement: Share | None = None
    positions: Count | None = None
    reason: str = ""


class Settings(Struct, kw_only=True):
    """The options whose types a reader relies on."""

    model: str | None = None
    text: list[str] = []
    layers: str | None = None
    sites: str | None = None
    arm_layers: str | None = None
    layer: dict[str, Any] | None = None
    seed: Integer | None = None
    max_length: Count | None = None
    batch_size: Count | None = None
    c: Positive | None = None
    p1: Finite | None = None
    p_min: Finite | None = None
    p_max: Finite | None = None
    fraction: Share | None = None
    passes: Count | None = None
    skip_special: bool | None = None
    chat_template: bool | None = None
    filler: str | None = None


class Manifest(Struct, kw_only=True):
    """The fields of every manifest."""

    schema_version: int
    checksums: dict[FileName, str] = {}
    checksum: str | None = None
    kind: str = ""
    settings: Settings | None = None
    warnings: list[str] = []
    created: str | None = None
    token_classes: dict[str, Count] | None = None
    token_groups: dict[Partition, dict[str, Count]] | None = None
    versions: dict[str, str | None] | None = None
    device: str | None = None
    dtype: str | None = None
    processes: Count | None = None
    threads: Count | None = None
    seconds: dict[str, Positive] | None = None


class Change(Struct, kw_only=True):
    """The mean movement of the values at a place."""

    layer: Layer
    stack: str
    site: str
    module: str
    value: Positive


class RunManifest(Manifest, kw_only=True):
    """``run.json``."""

    kind: Literal["run"] = "run"
    model: Model | None = None
    arm: Arm | None = None
    effect: Effect | None = None
    text: Sample | None = None
    near_zero_c: Positive | None = None
    mean_abs_change: list[Change] = []
    linear_inputs: dict[str, dict[str, list[str]]] = {}
    linear_left_out: list[str] = []


class ElementwiseNote(Struct, kw_only=True):
    """What a comparison value by value found; see `divergence`."""

    sites: list[str]
    local: bool = False
    dtypes: list[str] = []
    first: dict[str, Any] | None = None
    jump: dict[str, Any] | None = None
    worst: dict[str, Any] | None = None
    amplifying: list[Layer] = []
    left_out: dict[str, Any] | None = None
    verdict: str = ""


class ComparisonManifest(Manifest, kw_only=True):
    """``comparison.json``."""

    kind: Literal["comparison"] = "comparison"
    phase_a: Phase
    phase_b: Phase
    sites: list[str] | None
    layers: list[Layer] | None = None
    model_a: Model | None = None
    model_b: Model | None = None
    text_a: Sample | None = None
    text_b: Sample | None = None
    seed: Integer | None = None
    paired: bool | None = None
    alignment: dict[str, str] = {}
    same_tokenizer: bool = True
    verdict: str = ""
    measured: list[Literal["a", "b"]] = []
    of_b: dict[str, str | int | float | bool] = {}
    elementwise: ElementwiseNote | None = None
    output: Output | None = None


class FillerManifest(Manifest, kw_only=True):
    """``filler.json``."""

    kind: Literal["filler"] = "filler"
    counts: list[Annotated[int, Meta(ge=0, le=10**9)]] | None = None
    filler: str = ""
    filler_kind: str | None = None
    filler_position: str | None = None
    model: Model | None = None
    text: Sample | None = None
    verdict: str = ""


class SweepManifest(Manifest, kw_only=True):
    """``sweep.json``."""

    kind: Literal["sweep"] = "sweep"
    budget_kl: Positive
    by_layer: bool
    near_zero_c: Positive | None = None
    model: NamedModel
    text: Sample | None = None
    seeds: list[Integer] | None = None
    grid: dict[str, str | list[str] | None] | None = None
    presets: dict[str, dict[str, Any]] | None = None
    flags: list[str] = []
    reason: str = ""
    command: str = ""
    evidence: str = ""


class AllocationManifest(Manifest, kw_only=True):
    """``allocation.json``."""

    kind: Literal["allocation"] = "allocation"
    asked: dict[str, str | float | list[str] | None]
    unit: Literal["zeros", "bits"]
    target: Share | None = None
    budget_kl: Positive | None = None
    layers: str
    at: str
    places: Count
    model: NamedModel
    text: Sample | None = None
    flags: list[str] = []


class WhatIfManifest(Manifest, kw_only=True):
    """``whatif.json``."""

    kind: Literal["whatif"] = "whatif"
    run: str | None = None
    model: Model | None = None
    arm: Arm | None = None
    text: Sample | None = None
    sparsity: list[Share] = []
    thresholds: list[Positive] = []
    formats: list[str] = []
    ranges: list[str] = []
    percentile: Annotated[float, Meta(ge=0, le=100)]
    phases: list[Phase] = []
    is_rounded: bool = False
    asked: dict[str, str | int | float | bool | None] | None = None


class TrainingSettings(Settings, kw_only=True):
    """What the snapshots of a training observe, and when."""

    every: Count | None = None
    gradients: bool = False
    weights: bool = False


class SnapshotNote(Struct, kw_only=True):
    """A snapshot: what it observed, and the SHA-256 of the ``run.json`` it was written with.

    ``session`` counts from 0 how often the training was started again before it.
    """

    step: Count
    checksum: str
    tokens: Count | None = None
    passes: Count | None = None
    session: Count = 0


class TrainingManifest(Manifest, kw_only=True):
    """``training.json``; ``sizes`` are the bytes of files that grow, as far as they are valid."""

    kind: Literal["training"] = "training"
    model: Model | None = None
    settings: TrainingSettings | None = None
    steps: list[SnapshotNote] = []
    sizes: dict[FileName, Count] = {}
    first_nonfinite: dict[str, Any] | None = None


def check(value: Any, schema: Any) -> None:
    """Check plain data.

    Raises
    ------
    ValueError
        If a value has another type or is outside its range; the message names the field.
    """
    try:
        msgspec.convert(value, schema)
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "").replace("Object missing required field", "it has no")
        reason, _, place = text.partition(" - at ")
        where = f" in {place.replace('$.', '').replace('$', '')}" if place else ""
        raise ValueError(f"{reason[:1].lower()}{reason[1:]}{where}") from None
