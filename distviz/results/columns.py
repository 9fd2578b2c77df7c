"""What each table of a result may hold: columns, types and ranges.

A column that is not declared here is allowed and kept. ``None`` in a type allows missing values
(empty in CSV, NaN); a column with a default may be absent.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct, field
from msgspec.structs import fields

from distviz.results.schema import (
    Count,
    Finite,
    Integer,
    Layer,
    Number,
    Partition,
    Phase,
    Positive,
    Share,
)
from distviz.sites import ACT


class Row(Struct, kw_only=True):
    """A row of a table."""

    can_be_blank: ClassVar[bool] = False
    """Whether the file of a table without rows has no columns."""


class Place(Row, kw_only=True):
    """The columns of every table by layer, site and phase."""

    layer: Layer
    site: str
    phase: Phase
    module: str
    stack: str


class Document(Place, kw_only=True):
    """``documents.parquet``."""

    can_be_blank: ClassVar[bool] = True
    document: Count | None = None
    count: Count = 0
    mean: Number | None = None
    std: Positive | None = None
    eps: Positive | None = None
    near_zero: Share | None = None
    l1: Positive | None = None
    l2: Positive | None = None
    gini: Share | None = None
    absmax: Positive | None = None


class Channel(Place, kw_only=True):
    """``channels.parquet``."""

    can_be_blank: ClassVar[bool] = True
    channel: Count = 0
    count: Count = 0
    mean: Number | None = None
    std: Positive | None = None
    min: Finite | None = None
    max: Finite | None = None
    absmax: Positive | None = None
    zeros: Count = 0
    positive: Count = 0
    kurtosis: Number | None = None
    top: Count = 0
    channel_dim: Integer = -1


class Plan(Row, kw_only=True):
    """``plans.csv``."""

    can_be_blank: ClassVar[bool] = True
    layer: Layer
    document: Count
    window: Count
    k: Count
    module: str = ""
    stack: str = ""
    site: str = "act"
    pass_: Count = field(default=0, name="pass")
    n: Count = 0
    eps: Positive | None = None
    near: Share | None = None
    fraction: Share | None = None
    upper: Finite | None = None
    lower: Finite | None = None


class Expert(Place, kw_only=True):
    """``experts.csv``."""

    can_be_blank: ClassVar[bool] = True
    expert: Count
    tokens: Count
    count: Count
    nan: Count
    inf: Count
    zeros: Count
    min: Finite | None
    max: Finite | None
    mean: Number | None
    std: Positive | None
    near_zero: Share | None
    near_zero_low: Share | None
    near_zero_high: Share | None


class Extreme(Place, kw_only=True):
    """``extremes.csv``."""

    can_be_blank: ClassVar[bool] = True
    rank: Count
    value: Finite
    document: Count
    window: Count
    position: Count
    token: str
    channel: Count
    ratio: Positive | None
    massive: bool = False
    token_id: Count | None = None
    expert: Count | None = None


class FormatLoss(Place, kw_only=True):
    """``formats.csv``."""

    can_be_blank: ClassVar[bool] = True
    format: str
    rotation: str
    sqnr_db: Number | None
    error_share: Positive | None
    token_error_share: Positive | None
    zeroed: Share | None
    clipped: Share | None
    max_p1: Positive | None
    max_p50: Positive | None
    max_p99: Positive | None
    max_p100: Positive | None
    count: Count
    error: Positive


class PairOfLayers(Row, kw_only=True):
    """The columns of every table of a comparison."""

    layer_a: Layer
    layer_b: Layer
    site: str
    phase_a: Phase
    phase_b: Phase
    stack: str


class Distance(PairOfLayers, kw_only=True):
    """``compare.csv``."""

    module_a: str
    module_b: str
    ks: Share | None
    wasserstein: Positive | None
    wasserstein_normalized: Positive | None
    js_divergence: Share | None
    std_ratio: Positive | None
    near_zero_a: Share | None
    near_zero_b: Share | None
    gini_a: Share | None
    gini_b: Share | None
    p1_shift: Finite | None
    p50_shift: Finite | None
    p99_shift: Finite | None


class Estimate(Row, kw_only=True):
    """The columns of an estimate over documents or tokens."""

    quantity: str
    estimate: Number | None
    ci_low: Number | None
    ci_high: Number | None
    p_value: Share | None
    p_adjusted: Share | None
    effect_size: Number | None
    documents: Count
    paired: bool
    documents_a: Count
    documents_b: Count
    zero_variance: Count
    approximate: bool
    reason: str


class Inference(Estimate, kw_only=True):
    """``inference.csv``."""

    layer_a: Layer
    layer_b: Layer
    site: str
    phase_a: Phase
    phase_b: Phase
    module: str
    stack: str


class ChannelChange(PairOfLayers, kw_only=True):
    """``channels.csv``."""

    can_be_blank: ClassVar[bool] = True
    module: str
    channel: Count
    std_a: Positive | None
    std_b: Positive | None
    mean_a: Number | None
    mean_b: Number | None
    absmax_a: Positive | None
    absmax_b: Positive | None
    outlier_a: Positive | None
    outlier_b: Positive | None
    change: Number | None


class ClassShare(PairOfLayers, kw_only=True):
    """``classes.csv`` of a comparison."""

    can_be_blank: ClassVar[bool] = True
    module_a: str
    module_b: str
    token_class: str
    tokens_a: Count | None
    tokens_b: Count | None
    near_zero_a: Share | None
    near_zero_b: Share | None
    partition: Partition = "class"


class Elementwise(Row, kw_only=True):
    """``elementwise.csv``."""

    layer: Layer
    site: str
    sqnr_db: Number | None
    sqnr_low: Number | None
    sqnr_high: Number | None
    approximate: bool
    relative_error: Positive | None
    cosine: Finite | None
    cosine_tokens: Finite | None
    mean_abs_difference: Positive | None
    max_abs_difference: Positive | None
    max_document: Count | None
    max_window: Count | None
    max_position: Count | None
    max_token: str
    max_channel: Count | None
    tokens: Count
    documents: Count
    left_out: Count
    local_sqnr_db: Number | None = None
    local_relative_error: Positive | None = None
    module: str
    stack: str


class ElementwiseDocument(Row, kw_only=True):
    """``elementwise_documents.parquet``."""

    layer: Layer
    site: str
    document: Count
    count: Count
    sqnr_db: Number | None
    relative_error: Positive | None
    cosine: Finite | None
    mean_abs_difference: Positive | None
    local_sqnr_db: Number | None = None
    module: str
    stack: str


class ElementwiseChannel(Row, kw_only=True):
    """``elementwise_channels.csv``."""

    layer: Layer
    site: str
    rank: Count
    channel: Count
    error_share: Share
    energy_share: Share
    relative_error: Positive | None
    module: str
    stack: str


class ElementwiseToken(Row, kw_only=True):
    """``elementwise_tokens.csv``."""

    layer: Layer
    site: str
    rank: Count
    document: Count
    window: Count
    position: Count
    token: str
    error_share: Share
    relative_error: Positive | None
    cosine: Finite | None
    module: str
    stack: str


class FillerChange(Estimate, kw_only=True):
    """``filler.csv``."""

    filler_count: Count
    layer: Layer
    site: str
    phase: Phase | None = None
    module: str
    stack: str


class FillerAlong(Estimate, kw_only=True):
    """``positions.csv``."""

    filler_count: Count
    layer: Layer
    site: str
    module: str
    stack: str
    distance_low: Integer
    distance_high: Integer
    tokens: Count


class AttentionKept(Row, kw_only=True):
    """``attention.csv``."""

    filler_count: Count
    layer: Layer
    module: str
    attention_kept: Positive | None
    prompts: Count


class TokenChange(Row, kw_only=True):
    """``tokens.parquet``."""

    filler_count: Count
    layer: Layer
    site: str
    module: str
    stack: str
    document: Count
    position: Count
    part: str
    distance: Integer | None
    token: str
    near_zero: Share | None = None
    variance: Positive | None = None
    l1: Positive | None = None
    l2: Positive | None = None
    gini: Share | None = None
    near_zero_difference: Number | None
    log_variance_ratio: Number | None
    log_l1_ratio: Number | None
    log_l2_ratio: Number | None
    gini_difference: Number | None


class Setting(Row, kw_only=True):
    """The columns that identify a setting of a sweep."""

    redistribution: str
    layers: str
    at: str = ACT
    c: Positive | None
    p1: Finite | None
    fraction: Share | None
    mode: str
    preset: str


def names_of(row: type[Row]) -> list[str]:
    """Return the columns of a table, in their order."""
    return [column.encode_name for column in fields(row)]
