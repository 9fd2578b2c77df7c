"""Written by scripts/write_stub.py from the records of the options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from distviz.progress import Progress
from distviz.results import Allocation, Comparison, FillerStudy, Run, Sweep, WhatIf
from distviz.settings import RunSettings
from distviz.studies import Continuations, Inspection

def run(
    model: str | Path | None = None,
    *,
    text: Sequence[str | Path | dict[str, Any]] | None = None,
    text_field: str | None = None,
    text_lines: bool = False,
    dataset: str | None = None,
    max_documents: int | None = None,
    shuffle: bool = False,
    layers: str | int | Sequence[int] = "all",
    sites: str | Sequence[str] | None = None,
    arm_layers: str | int | Sequence[int] = "0",
    redistribution: Literal["arm", "threshold", "scale", "noise"] | str = "arm",
    at: str | Sequence[str] = "act",
    c: float = 0.13,
    p1: float | str = 99.5,
    p_min: float | str = 0.02,
    p_max: float | str = 0.25,
    fraction: float | str | None = None,
    arm_mode: Literal["replace", "add"] = "replace",
    percentile_of: Literal["value", "magnitude"] = "value",
    passes: int = 1,
    preset: str | None = None,
    ripple: bool = True,
    filler: str | None = None,
    filler_count: int = 55,
    filler_position: Literal["start", "between", "end", "random"] = "between",
    filler_kind: Literal["repeat", "random", "words"] = "repeat",
    chat_template: bool = False,
    max_length: int = 512,
    max_tokens: int | None = None,
    batch_size: int = 4,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device = "auto",
    device_map: str | None = None,
    stream: bool | None = None,
    stream_memory: int | None = None,
    revision: str | None = None,
    threads: int | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    skip_special: bool = False,
    classes: Literal["arm", "all"] = "arm",
    tokens: bool = False,
    channels: bool = False,
    formats: str | Sequence[str] = (),
    rotate: str | Sequence[str] = ("none",),
    keep_text: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    save_every: float = 10.0,
    figures: str | Sequence[str] = ("png",),
    figure_width: Literal["single", "double"] | None = None,
    x_axis: Literal["auto", "linear", "symlog"] = "auto",
    centred: bool = False,
    report: bool = False,
    config: str | Path | None = None,
    settings: RunSettings | None = None,
    progress: bool | Progress = False,
) -> Run:
    """Measure one model: without ARM, with ARM, paired.

    Parameters
    ----------
    model
        Hugging Face folder or hub ID, .gguf file, or TOML file that describes layers to build. Default: embedded demo model.
    text
        Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt. Default: embedded documents.
    text_field
        Field to measure of each row of ``text`` and ``dataset``. Default: text, messages, question, prompt, ....
    text_lines
        Take each line of a plain text as a document.
    dataset
        Dataset of the Hugging Face hub, or folder of one: NAME, NAME:SPLIT or NAME:CONFIG/SPLIT.
    max_documents
        Maximum documents.
    shuffle
        Shuffle the documents, by ``seed``, before ``max_documents``.
    layers
        Layers to observe: all, or a list such as 0,3,8-11.
    sites
        Sites to observe: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN. Default: as ``at``.
    arm_layers
        Layers with ARM: none, all, or a list such as 0,2.
    redistribution
        Redistribution: ``arm``, ``threshold``, ``scale``, ``noise``, scale:FACTOR, threshold:VALUE, threshold:FILE, quantize:FORMAT, quantize:FILE or module:callable.
    at
        Sites where values are redistributed: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN.
    c
        Width of the near-zero band.
    p1
        Percentile that bounds the new values.
    p_min
        Minimum fraction of values to move.
    p_max
        Maximum fraction of values to move.
    fraction
        Fraction of values to move, in place of ``c``.
    arm_mode
        Replace values or add to them: ``replace``, ``add``.
    percentile_of
        Quantity that ``p1`` refers to: ``value``, ``magnitude``.
    passes
        Repetitions of ARM.
    preset
        Published settings: NAME, NAME:BENCHMARK or auto.
    ripple
        Pass changed values to the later layers, or only compute them.
    filler
        Filler string to insert.
    filler_count
        Repetitions of the filler.
    filler_position
        Position of the filler: ``start``, ``between``, ``end``, ``random``.
    filler_kind
        Kind of filler tokens: ``repeat``, ``random``, ``words`` (a common English word).
    chat_template
        Apply the tokenizer's chat template to prompts.
    max_length
        Maximum tokens per window.
    max_tokens
        Maximum tokens in total.
    batch_size
        Windows per batch.
    dtype
        Data type of the weights: ``auto``, ``fp32``, ``bf16``, ``fp16``.
    device
        Device: ``auto``, ``cpu``, ``cuda``, ``mps``, or such as cuda:1.
    device_map
        Device map; auto distributes a large model over devices.
    stream
        Load one layer at a time and pass all batches through it. Default: if the model does not fit into free memory.
    stream_memory
        Memory for the hidden states of ``stream=True``, the rest is on disk. Default: a quarter of free memory.
    revision
        Revision of a hub model.
    threads
        CPU threads.
    attn_implementation
        Attention implementation, such as eager or sdpa.
    allow_pickle
        Load pickle weights, which can run code.
    trust_remote_code
        Run the checkpoint's own Python code.
    skip_special
        Exclude special tokens from the statistics.
    classes
        Separate statistics by token class, role and position: on ARM layers (arm) or on all layers (all).
    tokens
        Write tokens.parquet: largest magnitude and norm of every token and place.
    channels
        Also record each channel's kurtosis, and in how many tokens it is the largest.
    formats
        Number formats to quantize every site to, and measure: ``nvfp4``, ``mxfp4``, ``mxfp8``, ``mxfp8-e5m2``, ``int8-token``, ``fp8-token``, ``int8-channel``, ``int4-group128``, ``int8``, ``int8-asym``, ``int4``, ``int4-asym``, ``fp8-e4m3``, ``fp8-e5m2``.
    rotate
        Rotation of each token before ``formats``: ``none``, ``hadamard``, or both.
    keep_text
        Save the documents in the folder.
    seed
        Seed of ARM and of random input.
    out
        Folder to write.
    force
        Replace an existing output folder.
    resume
        Resume an interrupted run of the same command; needs ``out``.
    save_every
        Minimum seconds between checkpoints.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    x_axis
        Axis of the values of a distribution: ``auto``, ``linear``, ``symlog``; auto is symlog where outliers hold much of the energy.
    centred
        Zero in the middle of that axis.
    report
        Also write report.html into the folder.
    config
        TOML file with any of these options.
    settings
        All settings together, in place of single ones.
    progress
        Whether to show the progress on standard error as the command line does; or what receives it.

    Returns
    -------
    Run
        What was measured.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    MeasurementError
        If the measurement fails.
    """

def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    text: Sequence[str | Path | dict[str, Any]] | None = None,
    text_field: str | None = None,
    text_lines: bool = False,
    dataset: str | None = None,
    max_documents: int | None = None,
    shuffle: bool = False,
    layers: str | int | Sequence[int] = "all",
    sites: str | Sequence[str] | None = None,
    arm_layers: str | int | Sequence[int] = "0",
    redistribution: Literal["arm", "threshold", "scale", "noise"] | str = "arm",
    at: str | Sequence[str] = "act",
    c: float = 0.13,
    p1: float | str = 99.5,
    p_min: float | str = 0.02,
    p_max: float | str = 0.25,
    fraction: float | str | None = None,
    arm_mode: Literal["replace", "add"] = "replace",
    percentile_of: Literal["value", "magnitude"] = "value",
    passes: int = 1,
    preset: str | None = None,
    chat_template: bool = False,
    max_length: int = 512,
    max_tokens: int | None = None,
    batch_size: int = 4,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device = "auto",
    device_map: str | None = None,
    stream: bool | None = None,
    stream_memory: int | None = None,
    revision: str | None = None,
    threads: int | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    skip_special: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    save_every: float = 10.0,
    figures: str | Sequence[str] = ("png",),
    figure_width: Literal["single", "double"] | None = None,
    x_axis: Literal["auto", "linear", "symlog"] = "auto",
    centred: bool = False,
    phase_a: Literal["before", "after"] | str = "before",
    phase_b: Literal["before", "after"] | str | None = None,
    elementwise: bool = False,
    local: bool = False,
    report: bool = False,
    config: str | Path | None = None,
    b_arm_layers: str | int | Sequence[int] | None = None,
    b_redistribution: Literal["arm", "threshold", "scale", "noise"] | str | None = None,
    b_at: str | Sequence[str] | None = None,
    b_c: float | None = None,
    b_p1: float | str | None = None,
    b_p_min: float | str | None = None,
    b_p_max: float | str | None = None,
    b_fraction: float | str | None = None,
    b_arm_mode: Literal["replace", "add"] | None = None,
    b_percentile_of: Literal["value", "magnitude"] | None = None,
    b_passes: int | None = None,
    b_preset: str | None = None,
    b_dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype | None = None,
    b_device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device | None = None,
    b_device_map: str | None = None,
    b_revision: str | None = None,
    b_attn_implementation: str | None = None,
    b_allow_pickle: bool | None = None,
    b_trust_remote_code: bool | None = None,
    settings: RunSettings | None = None,
    given: frozenset[str] | None = None,
    progress: bool | Progress = False,
) -> Comparison:
    """Compare two models or runs: distances and statistical tests.

    A side that is a model is measured first. If one side is a run, its text and settings apply to
    the other, where no other ones are given.

    Parameters
    ----------
    a
        Run folder, or a model or TOML file of settings to measure.
    b
        The same; the table shows B relative to A.
    text
        Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt. Default: embedded documents.
    text_field
        Field to measure of each row of ``text`` and ``dataset``. Default: text, messages, question, prompt, ....
    text_lines
        Take each line of a plain text as a document.
    dataset
        Dataset of the Hugging Face hub, or folder of one: NAME, NAME:SPLIT or NAME:CONFIG/SPLIT.
    max_documents
        Maximum documents.
    shuffle
        Shuffle the documents, by ``seed``, before ``max_documents``.
    layers
        Layers to observe: all, or a list such as 0,3,8-11.
    sites
        Sites to observe: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN. Default: as ``at``.
    arm_layers
        Layers with ARM: none, all, or a list such as 0,2.
    redistribution
        Redistribution: ``arm``, ``threshold``, ``scale``, ``noise``, scale:FACTOR, threshold:VALUE, threshold:FILE, quantize:FORMAT, quantize:FILE or module:callable.
    at
        Sites where values are redistributed: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN.
    c
        Width of the near-zero band.
    p1
        Percentile that bounds the new values.
    p_min
        Minimum fraction of values to move.
    p_max
        Maximum fraction of values to move.
    fraction
        Fraction of values to move, in place of ``c``.
    arm_mode
        Replace values or add to them: ``replace``, ``add``.
    percentile_of
        Quantity that ``p1`` refers to: ``value``, ``magnitude``.
    passes
        Repetitions of ARM.
    preset
        Published settings: NAME, NAME:BENCHMARK or auto.
    chat_template
        Apply the tokenizer's chat template to prompts.
    max_length
        Maximum tokens per window.
    max_tokens
        Maximum tokens in total.
    batch_size
        Windows per batch.
    dtype
        Data type of the weights: ``auto``, ``fp32``, ``bf16``, ``fp16``.
    device
        Device: ``auto``, ``cpu``, ``cuda``, ``mps``, or such as cuda:1.
    device_map
        Device map; auto distributes a large model over devices.
    stream
        Load one layer at a time and pass all batches through it. Default: if the model does not fit into free memory.
    stream_memory
        Memory for the hidden states of ``stream=True``, the rest is on disk. Default: a quarter of free memory.
    revision
        Revision of a hub model.
    threads
        CPU threads.
    attn_implementation
        Attention implementation, such as eager or sdpa.
    allow_pickle
        Load pickle weights, which can run code.
    trust_remote_code
        Run the checkpoint's own Python code.
    skip_special
        Exclude special tokens from the statistics.
    seed
        Seed of ARM and of random input.
    out
        Folder to write.
    force
        Replace an existing output folder.
    resume
        Resume an interrupted run of the same command; needs ``out``.
    save_every
        Minimum seconds between checkpoints.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    x_axis
        Axis of the values of a distribution: ``auto``, ``linear``, ``symlog``; auto is symlog where outliers hold much of the energy.
    centred
        Zero in the middle of that axis.
    phase_a
        Phase of A: ``before``, ``after`` (with ARM).
    phase_b
        Phase of B: ``before``, ``after`` (with ARM). Default: before; after where ARM is given for B alone.
    elementwise
        Also compare the models value by value, both in memory at a time; at ``sites``, or at residual, act, product and attention.
    local
        With ``elementwise=True``, also let each layer of B read what the layer of A reads: the error it makes itself.
    report
        Also write report.html into the folder.
    config
        TOML file with any of these options.
    b_arm_layers
        ``arm_layers`` of B.
    b_redistribution
        ``redistribution`` of B.
    b_at
        ``at`` of B.
    b_c
        ``c`` of B.
    b_p1
        ``p1`` of B.
    b_p_min
        ``p_min`` of B.
    b_p_max
        ``p_max`` of B.
    b_fraction
        ``fraction`` of B.
    b_arm_mode
        ``arm_mode`` of B.
    b_percentile_of
        ``percentile_of`` of B.
    b_passes
        ``passes`` of B.
    b_preset
        ``preset`` of B.
    b_dtype
        ``dtype`` of B.
    b_device
        ``device`` of B.
    b_device_map
        ``device_map`` of B.
    b_revision
        ``revision`` of B.
    b_attn_implementation
        ``attn_implementation`` of B.
    b_allow_pickle
        ``allow_pickle=True`` of B.
    b_trust_remote_code
        ``trust_remote_code=True`` of B.
    settings
        All settings together, in place of single ones.
    given
        Names of ``settings`` that hold although one side is a run.
    progress
        Whether to show the progress on standard error as the command line does; or what receives it.

    Returns
    -------
    Comparison
        Distances, tests and both sides.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    MeasurementError
        If the measurement fails.
    """

def sweep(
    model: str | Path | None = None,
    *,
    text: Sequence[str | Path | dict[str, Any]] | None = None,
    text_field: str | None = None,
    text_lines: bool = False,
    dataset: str | None = None,
    max_documents: int | None = None,
    shuffle: bool = False,
    p_min: float | str = 0.02,
    p_max: float | str = 0.25,
    percentile_of: Literal["value", "magnitude"] = "value",
    passes: int = 1,
    preset: str | Sequence[str] | None = None,
    filler: str | None = None,
    filler_count: int = 55,
    filler_position: Literal["start", "between", "end", "random"] = "between",
    filler_kind: Literal["repeat", "random", "words"] = "repeat",
    chat_template: bool = False,
    max_length: int = 512,
    max_tokens: int | None = None,
    batch_size: int = 4,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    threads: int | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    skip_special: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    save_every: float = 10.0,
    figures: str | Sequence[str] = ("png",),
    figure_width: Literal["single", "double"] | None = None,
    c: str | float | Sequence[str | float] | None = None,
    p1: str | float | Sequence[str | float] | None = None,
    fraction: str | float | Sequence[str | float] | None = None,
    arm_mode: str | Sequence[str] | None = None,
    redistribution: str | Sequence[str] | None = None,
    at: str | Sequence[str] | None = None,
    arm_layers: str | int | Sequence[str | int] | None = None,
    by_layer: bool = False,
    seeds: int = 1,
    allocate: str | float | Sequence[str] | None = None,
    budget_kl: float | None = None,
    report: bool = False,
    config: str | Path | None = None,
    progress: bool | Progress = False,
) -> Sweep | Allocation:
    """Measure a grid of ARM settings and recommend one.

    Parameters
    ----------
    model
        Hugging Face folder or hub ID, .gguf file, or TOML file that describes layers to build. Default: embedded demo model.
    text
        Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt. Default: embedded documents.
    text_field
        Field to measure of each row of ``text`` and ``dataset``. Default: text, messages, question, prompt, ....
    text_lines
        Take each line of a plain text as a document.
    dataset
        Dataset of the Hugging Face hub, or folder of one: NAME, NAME:SPLIT or NAME:CONFIG/SPLIT.
    max_documents
        Maximum documents.
    shuffle
        Shuffle the documents, by ``seed``, before ``max_documents``.
    p_min
        Minimum fraction of values to move.
    p_max
        Maximum fraction of values to move.
    percentile_of
        Quantity that ``p1`` refers to: ``value``, ``magnitude``.
    passes
        Repetitions of ARM.
    preset
        Published settings, alone or besides ``c`` and ``p1``: auto (those of the model, all benchmarks), NAME (all benchmarks) or NAME:BENCHMARK.
    filler
        Filler string to insert.
    filler_count
        Repetitions of the filler.
    filler_position
        Position of the filler: ``start``, ``between``, ``end``, ``random``.
    filler_kind
        Kind of filler tokens: ``repeat``, ``random``, ``words`` (a common English word).
    chat_template
        Apply the tokenizer's chat template to prompts.
    max_length
        Maximum tokens per window.
    max_tokens
        Maximum tokens in total.
    batch_size
        Windows per batch.
    dtype
        Data type of the weights: ``auto``, ``fp32``, ``bf16``, ``fp16``.
    device
        Device: ``auto``, ``cpu``, ``cuda``, ``mps``, or such as cuda:1.
    device_map
        Device map; auto distributes a large model over devices.
    revision
        Revision of a hub model.
    threads
        CPU threads.
    attn_implementation
        Attention implementation, such as eager or sdpa.
    allow_pickle
        Load pickle weights, which can run code.
    trust_remote_code
        Run the checkpoint's own Python code.
    skip_special
        Exclude special tokens from the statistics.
    seed
        Seed of ARM and of random input.
    out
        Folder to write.
    force
        Replace an existing output folder.
    resume
        Resume an interrupted run of the same command; needs ``out``.
    save_every
        Minimum seconds between checkpoints.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    c
        Widths of the near-zero band, such as 0.05,0.13,0.32,1.
    p1
        Percentiles that bound the new values, such as 75,90,99.5.
    fraction
        Fractions of values to move, in place of ``c`` or in addition.
    arm_mode
        Modes: ``replace``, ``add``.
    redistribution
        Redistributions: ``arm``, ``threshold``, ``scale``, ``noise`` and others.
    at
        Sites: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN; together: act+product.
    arm_layers
        Alternatives for the ARM layers, quoted and separated by ; as in '0;1;0,1;all', or repeated.
    by_layer
        Apply each setting to each layer alone.
    seeds
        Random seeds per setting.
    allocate
        Allocate to the layers what costs least at ``at``: a mean share of zeros, such as 50%, or number formats, such as nvfp4,fp8-token or none,nvfp4.
    budget_kl
        Largest KL divergence of a recommended setting, or of what is allocated, nats. Default: 0.05; none with a share of zeros.
    report
        Also write report.html into the folder.
    config
        TOML file with any of these options.
    progress
        Whether to show the progress on standard error as the command line does; or what receives it.

    Returns
    -------
    Sweep | Allocation
        Every setting with its effect; with ``allocate`` an `Allocation`.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    MeasurementError
        If the measurement fails.
    """

def filler(
    model: str | Path,
    *,
    text: Sequence[str | Path | dict[str, Any]] | None = None,
    text_field: str | None = None,
    text_lines: bool = False,
    dataset: str | None = None,
    max_documents: int | None = None,
    shuffle: bool = False,
    layers: str | int | Sequence[int] = "all",
    sites: str | Sequence[str] | None = None,
    filler: str | None = None,
    filler_count: int = 55,
    filler_position: Literal["start", "between", "end", "random"] = "between",
    filler_kind: Literal["repeat", "random", "words"] = "repeat",
    chat_template: bool = False,
    max_length: int = 512,
    batch_size: int = 4,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    threads: int | None = None,
    attn_implementation: str | None = None,
    attention_layers: str | int | Sequence[int] | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    skip_special: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    save_every: float = 10.0,
    figures: str | Sequence[str] = ("png",),
    figure_width: Literal["single", "double"] | None = None,
    counts: str | float | Sequence[str | float] | None = None,
    report: bool = False,
    config: str | Path | None = None,
    progress: bool | Progress = False,
) -> FillerStudy:
    """Measure the same prompts with and without filler tokens.

    Parameters
    ----------
    model
        Hugging Face folder or hub ID, or .gguf file.
    text
        Documents: a ``str`` is a text, a ``Path`` a file, a ``dict`` a prompt. Default: embedded documents.
    text_field
        Field to measure of each row of ``text`` and ``dataset``. Default: text, messages, question, prompt, ....
    text_lines
        Take each line of a plain text as a document.
    dataset
        Dataset of the Hugging Face hub, or folder of one: NAME, NAME:SPLIT or NAME:CONFIG/SPLIT.
    max_documents
        Maximum documents.
    shuffle
        Shuffle the documents, by ``seed``, before ``max_documents``.
    layers
        Layers to observe: all, or a list such as 0,3,8-11.
    sites
        Sites to observe: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN. Default: as ``at``.
    filler
        Filler string to insert.
    filler_count
        Repetitions of the filler.
    filler_position
        Position of the filler: ``start``, ``between``, ``end``, ``random``.
    filler_kind
        Kind of filler tokens: ``repeat``, ``random``, ``words`` (a common English word).
    chat_template
        Apply the tokenizer's chat template to prompts.
    max_length
        Maximum tokens per window.
    batch_size
        Windows per batch.
    dtype
        Data type of the weights: ``auto``, ``fp32``, ``bf16``, ``fp16``.
    device
        Device: ``auto``, ``cpu``, ``cuda``, ``mps``, or such as cuda:1.
    device_map
        Device map; auto distributes a large model over devices.
    revision
        Revision of a hub model.
    threads
        CPU threads.
    attn_implementation
        Attention implementation, such as eager or sdpa.
    attention_layers
        Layers whose attention weights are recorded: all, none, or 0,3. Default: as ``layers``.
    allow_pickle
        Load pickle weights, which can run code.
    trust_remote_code
        Run the checkpoint's own Python code.
    skip_special
        Exclude special tokens from the statistics.
    seed
        Seed of ARM and of random input.
    out
        Folder to write.
    force
        Replace an existing output folder.
    resume
        Resume an interrupted run of the same command; needs ``out``.
    save_every
        Minimum seconds between checkpoints.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    counts
        Numbers of filler tokens to measure, such as 0,10,25,40,55,70. Default: 0,55.
    report
        Also write report.html into the folder.
    config
        TOML file with any of these options.
    progress
        Whether to show the progress on standard error as the command line does; or what receives it.

    Returns
    -------
    FillerStudy
        The runs by their number of filler tokens, and the changes.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    MeasurementError
        If the measurement fails.
    """

def generate(
    model: str | Path | None = None,
    *,
    arm_layers: str | int | Sequence[int] = "0",
    redistribution: Literal["arm", "threshold", "scale", "noise"] | str = "arm",
    at: str | Sequence[str] = "act",
    c: float = 0.13,
    p1: float | str = 99.5,
    p_min: float | str = 0.02,
    p_max: float | str = 0.25,
    fraction: float | str | None = None,
    arm_mode: Literal["replace", "add"] = "replace",
    percentile_of: Literal["value", "magnitude"] = "value",
    passes: int = 1,
    preset: str | None = None,
    chat_template: bool = False,
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | str | torch.dtype = "auto",
    device: Literal["auto", "cpu", "cuda", "mps"] | str | torch.device = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    threads: int | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    seed: int = 0,
    prompt: str,
    system: str = "",
    max_new_tokens: int = 64,
    num_samples: int = 1,
    sample: bool = False,
    temperature: float | None = None,
    top_p: float | str | None = None,
    on: Literal["both", "prefill", "decode"] | str = "both",
    config: str | Path | None = None,
    progress: bool | Progress = False,
) -> Continuations:
    """Continue a prompt with ARM off and on.

    Parameters
    ----------
    model
        Hugging Face folder or hub ID, .gguf file, or TOML file that describes layers to build. Default: embedded demo model.
    arm_layers
        Layers with ARM: none, all, or a list such as 0,2.
    redistribution
        Redistribution: ``arm``, ``threshold``, ``scale``, ``noise``, scale:FACTOR, threshold:VALUE, threshold:FILE, quantize:FORMAT, quantize:FILE or module:callable.
    at
        Sites where values are redistributed: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual``, module:PATTERN, input:PATTERN.
    c
        Width of the near-zero band.
    p1
        Percentile that bounds the new values.
    p_min
        Minimum fraction of values to move.
    p_max
        Maximum fraction of values to move.
    fraction
        Fraction of values to move, in place of ``c``.
    arm_mode
        Replace values or add to them: ``replace``, ``add``.
    percentile_of
        Quantity that ``p1`` refers to: ``value``, ``magnitude``.
    passes
        Repetitions of ARM.
    preset
        Published settings: NAME, NAME:BENCHMARK or auto.
    chat_template
        Apply the tokenizer's chat template to prompts.
    dtype
        Data type of the weights: ``auto``, ``fp32``, ``bf16``, ``fp16``.
    device
        Device: ``auto``, ``cpu``, ``cuda``, ``mps``, or such as cuda:1.
    device_map
        Device map; auto distributes a large model over devices.
    revision
        Revision of a hub model.
    threads
        CPU threads.
    attn_implementation
        Attention implementation, such as eager or sdpa.
    allow_pickle
        Load pickle weights, which can run code.
    trust_remote_code
        Run the checkpoint's own Python code.
    seed
        Seed of ARM and of random input.
    prompt
        Prompt; - standard input.
    system
        System prompt.
    max_new_tokens
        Maximum new tokens.
    num_samples
        Continuations with ARM off and on.
    sample
        Sample tokens instead of taking the most likely one.
    temperature
        Sampling temperature; implies ``sample=True``. Default: 1.
    top_p
        Nucleus sampling; implies ``sample=True``. Default: 1.
    on
        Steps with ARM: ``both``, ``prefill``, ``decode``.
    config
        TOML file with any of these options.
    progress
        Whether to show the progress on standard error as the command line does; or what receives it.

    Returns
    -------
    Continuations
        The texts without and with ARM.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    MeasurementError
        If the measurement fails.
    """

def inspect(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    layer: int | None = None,
) -> Inspection:
    """Describe a layer of a model with every site that can be observed; no weights are needed.

    Parameters
    ----------
    model
        Hugging Face folder or hub ID, .gguf file, or TOML file that describes layers to build. Default: embedded demo model.
    revision
        Revision of a hub model.
    trust_remote_code
        Run the checkpoint's own Python code.
    layer
        Layer to draw. Default: 0.

    Returns
    -------
    Inspection
        The layer, its points and their widths.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    """

def whatif(
    run: Run | str | Path,
    *,
    out: str | Path | None = None,
    force: bool = False,
    figures: str | Sequence[str] = ("png",),
    figure_width: Literal["single", "double"] | None = None,
    phases: str | Sequence[str] | None = None,
    layers: str | int | Sequence[int] | None = None,
    sites: str | Sequence[str] | None = None,
    sparsity: str | float | Sequence[str | float] | None = None,
    thresholds: str | float | Sequence[str | float] | None = None,
    formats: str | Sequence[str] | None = None,
    ranges: str | Sequence[str] | None = None,
    percentile: float | str | None = None,
    report: bool = False,
) -> WhatIf:
    """Compute the error of sparsity and quantization from a saved run.

    Parameters
    ----------
    run
        Folder that distviz run wrote.
    out
        Folder to write.
    force
        Replace an existing output folder.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    phases
        Phases: ``before``, ``after``, ``arm_input``, ``moved_before``, ``moved_after``. Default: before,after.
    layers
        Layers to include: all, or a list such as 0,3,8-11. Default: all.
    sites
        Sites to include: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual`` and others. Default: all.
    sparsity
        Percentages of zeros to find thresholds for, or none. Default: 10,20,...,90.
    thresholds
        Magnitudes up to which values become zero, such as 0.01,0.1.
    formats
        Number formats: ``int8``, ``int8-asym``, ``int4``, ``int4-asym``, ``fp8-e4m3``, ``fp8-e5m2``, ``none``. Default: all.
    ranges
        Range of the formats: ``max``, ``percentile``, ``mse``, ``none`` (fp8 without a scale). Default: all.
    percentile
        Percentage of the values within ``ranges='percentile'``. Default: 99.9.
    report
        Also write report.html into the folder.

    Returns
    -------
    WhatIf
        The error of each place.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    """

def report(
    folders: str | Path | Sequence[str | Path],
    *,
    x_axis: Literal["auto", "linear", "symlog"] = "auto",
    centred: bool = False,
    out: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Write one HTML file with figures, curves and tables.

    Parameters
    ----------
    folders
        Folders that distviz wrote, of any kind.
    x_axis
        Axis of the values of a distribution: ``auto``, ``linear``, ``symlog``; auto is symlog where outliers hold much of the energy.
    centred
        Zero in the middle of that axis.
    out
        File to write. Default: report.html in the first folder.
    force
        Replace an existing file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    """

def export(
    run: str | Path,
    *,
    out: str | Path | None = None,
    force: bool = False,
    figure_width: Literal["single", "double"] | None = None,
    x_axis: Literal["auto", "linear", "symlog"] = "auto",
    centred: bool = False,
    layers: str | int | Sequence[int] | None = None,
    sites: str | Sequence[str] | None = None,
    figures: str | Sequence[str] = ("png",),
    figure: str | Sequence[str] | None = None,
    tool: Literal["imatrix", "smoothquant", "teal", "tensorboard"] | None = None,
    tables: str | Sequence[str] | None = None,
    log: bool | None = None,
) -> list[Path]:
    """Write figures and tables of a result, or files of a run for another tool.

    Parameters
    ----------
    run
        Folder that distviz wrote, of any kind.
    out
        Folder to write.
    force
        Replace an existing output folder.
    figure_width
        Columns of a paper: ``single``, ``double`` (3.25, 6.75 inches wide).
    x_axis
        Axis of the values of a distribution: ``auto``, ``linear``, ``symlog``; auto is symlog where outliers hold much of the energy.
    centred
        Zero in the middle of that axis.
    layers
        Layers to include: all, or a list such as 0,3,8-11. Default: all.
    sites
        Sites to include: ``mlp_in``, ``gate``, ``act``, ``up``, ``product``, ``down``, ``attn_in``, ``q``, ``k``, ``v``, ``attention``, ``residual`` and others. Default: all.
    figures
        Figure formats, comma-separated: ``png``, ``svg``, ``pdf``, ``none``.
    figure
        Only figures of this kind, and no tables without ``tables``; repeatable. Run: paired, overview, classes, channels, formats; comparison: compared, overview, classes, elementwise; filler study: filler, positions, by-count; sweep: sweep, allocation; whatif: formats, zeros; training: curves, steps.
    tool
        Files of a run for another tool instead: ``imatrix``, ``smoothquant``, ``teal``, ``tensorboard``.
    tables
        Table formats, comma-separated: ``csv``, ``parquet``, ``json``, ``none``. Default: csv.
    log
        Scale of the count axis. Default: by the counts.

    Returns
    -------
    list[Path]
        The files.

    Raises
    ------
    RequestError
        If the request cannot be carried out.
    """
