"""The table of what formats lose, against brute force, however the rows arrive."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import hadamard
from support.brute_formats import brute_restore
from support.pretended_device import Pretended, pretended, strictly
from support.tiny_experts import FAMILIES, Told, activation_of, call, tiny_experts

from distviz.hooks.format_losses import FormatLosses
from distviz.hooks.observation import choose_points, observing
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_tracker import Tracker
from distviz.hooks.tokens import Tokens
from distviz.sites import SiteKey
from distviz.stats import GRANULAR_FORMATS, decode, encode

KEY = SiteKey(0, "decoder", "act", "before", "m")
NAMES = ("nvfp4", "mxfp4", "int8-channel", "int4-group128", "int8-token")
BATCH, LENGTH, WIDTH = 3, 7, 48


def tokens_of(rows: range) -> tuple[torch.Tensor, Tokens]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=generator)
    x[1, 2, 3] = 500.0
    x[0, 1] = 0
    valid = np.ones((BATCH, LENGTH), bool)
    valid[1, 5:] = False
    counted = valid.copy()
    counted[:, 0] = False
    part = slice(rows.start, rows.stop)
    n = len(rows)
    given = Tokens(
        valid[part],
        counted[part],
        np.arange(BATCH)[part],
        np.tile(np.arange(LENGTH), (n, 1)),
        np.zeros((n, LENGTH), np.int64),
    )
    return x[part].reshape(-1, WIDTH), given


def expected(name: str, *, rotated: bool) -> dict[str, float]:
    x, tokens = tokens_of(range(BATCH))
    values = x.numpy()
    if rotated:
        matrix = np.kron(np.eye(WIDTH // 16), hadamard(16)) / 4
        values = (values.astype(np.float64) @ matrix).astype(np.float32)
    windows = np.where(tokens.valid, np.arange(BATCH)[:, None], -1).ravel()
    brute = brute_restore(values, name, windows)
    rows = tokens.counted.ravel()
    wide, kept = values[rows].astype(np.float64), brute.values[rows].astype(np.float64)
    error, energy = (wide - kept) ** 2, wide**2
    of_tokens = energy.sum(1)
    shares = error.sum(1)[of_tokens > 0] / of_tokens[of_tokens > 0]
    return {
        "sqnr_db": 10 * math.log10(energy.sum() / error.sum()),
        "error_share": error.sum() / energy.sum(),
        "token_error_share": shares.mean(),
        "zeroed": ((kept == 0) & (wide != 0)).mean(),
        "clipped": brute.clipped[rows].mean(),
        "count": rows.sum() * WIDTH,
        "error": error.sum(),
    }


def record(parts: list[range], rotations: tuple[str, ...] = ("none", "hadamard")) -> FormatLosses:
    total = FormatLosses(NAMES, rotations)
    for part in parts:
        one = FormatLosses(NAMES, rotations)
        one.see(KEY, *tokens_of(part))
        total = total + FormatLosses.from_state(decode(encode({"x": one.state()}))["x"])
    return total


@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_the_table_is_that_of_brute_force(rotation: str) -> None:
    table = record([range(BATCH)]).frame()
    rows = table[table["rotation"] == rotation].set_index("format")
    assert rows.index.tolist() == list(NAMES)
    for name in NAMES:
        tolerance = 1e-12 if rotation == "none" else 0.02  # the matrix product rounds otherwise
        for column, value in expected(name, rotated=rotation == "hadamard").items():
            assert rows.loc[name, column] == pytest.approx(value, rel=tolerance, abs=1e-3), column


def test_percentiles_are_those_of_block_maxima() -> None:
    x, tokens = tokens_of(range(BATCH))
    rows = x[torch.from_numpy(tokens.counted.ravel())].abs()
    blocks = torch.stack([rows[:, :32].amax(1), rows[:, 32:].amax(1)], 1).bfloat16().double()
    row = record([range(BATCH)]).frame().set_index(["format", "rotation"]).loc["mxfp4", "none"]
    for percent in (1, 50, 99, 100):
        assert row[f"max_p{percent}"] == pytest.approx(np.percentile(blocks, percent))


def test_parts_and_order_change_nothing() -> None:
    whole = record([range(BATCH)]).frame()
    for parts in (
        [range(1), range(1, 3)],
        [range(1, 3), range(1)],
        [range(n, n + 1) for n in (2, 0, 1)],
    ):
        pd.testing.assert_frame_equal(record(parts).frame(), whole, check_exact=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_adds_up_what_the_cpu_does(dtype: torch.dtype) -> None:
    """Two calls, padding, what is not finite, subnormal; nothing waits before the end."""
    names, parts = tuple(GRANULAR_FORMATS), (range(2), range(2, BATCH))
    expected = FormatLosses(names, ("none", "hadamard"))
    found = FormatLosses(names, expected.rotations)
    with pretended() as device:
        for part in parts:
            x, tokens = tokens_of(part)
            x[0, :4] = torch.tensor([math.nan, math.inf, -0.0, 1e-40])
            expected.see(KEY, x.to(dtype), tokens)
            with strictly(device):
                found.see(KEY, Pretended(x.to(dtype)), tokens)
        assert not found.found
        assert len(device.sent) == 2 * 2  # rows, and those that count, of each call
        found.flush()
    found.flush()  # nothing is left
    assert found.found.keys() == expected.found.keys()
    for place, one in expected.found.items():
        other = found.found[place]
        assert (other.count, other.tokens) == (one.count, one.tokens)
        assert float(other.squares) == pytest.approx(float(one.squares), rel=1e-14)
        for mine, theirs in zip(other.formats, one.formats, strict=True):
            assert (mine.zeroed, mine.clipped) == (theirs.zeroed, theirs.clipped)
            np.testing.assert_array_equal(mine.maxima, theirs.maxima)
            for sums in (mine.error, theirs.error), (mine.shares, theirs.shares):
                assert float(sums[0]) == pytest.approx(float(sums[1]), rel=1e-12, abs=0)


def test_several_sequences_in_a_row_are_windows_of_their_own() -> None:
    x, tokens = tokens_of(range(1))
    packed = replace(tokens, lengths=(3, 4))
    one, two = FormatLosses(("int8-channel",)), FormatLosses(("int8-channel",))
    one.see(KEY, x, packed)
    for part in (slice(0, 3), slice(3, 7)):
        own = Tokens(
            tokens.valid[:, part],
            tokens.counted[:, part],
            tokens.documents,
            tokens.index[:, part],
            tokens.classes[:, part],
        )
        two.see(KEY, x[part], own)
    pd.testing.assert_frame_equal(one.frame(), two.frame())


def test_zeros_and_no_formats() -> None:
    x, tokens = tokens_of(range(BATCH))
    nothing = FormatLosses()
    nothing.see(KEY, x, tokens)
    assert nothing.frame().empty
    zeros = FormatLosses(("nvfp4",))
    zeros.see(KEY, torch.zeros_like(x), tokens)
    row = zeros.frame().iloc[0]
    assert row[["sqnr_db", "error_share", "token_error_share"]].isna().all()
    assert (row["zeroed"], row["clipped"], row["error"]) == (0, 0, 0)


ROUTED = [("mixtral", "grouped_mm"), ("mixtral", "batched_mm"), ("mixtral", "eager")]
ROUTED += [(name, "eager") for name in ("llama4_text", "jetmoe", "gpt_oss", "dbrx")]
ROUTED += [("switch_transformers", "eager"), ("qwen2_moe", "grouped_mm")]


@pytest.mark.parametrize(("name", "implementation"), ROUTED)
def test_rows_of_experts_are_tokens_of_their_window(name: str, implementation: str) -> None:
    """A row per token and expert; all experts of a window share what has one scale per window."""
    model = tiny_experts(name, implementation)
    family, told, act = FAMILIES[name], Told(name, model), activation_of(name, model)
    layers = {"encoder": family.layer} if name == "switch_transformers" else family.layer
    points = [p for p in choose_points(model, ["act"], layers) if p.module == family.act]
    recorder = Recorder()
    recorder.formats = FormatLosses((*NAMES, "int8-asym", "fp8-e4m3"))
    ids = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1, :3] = 0
    mask[2, 1:] = 0
    with observing(model, points, recorder, Tracker()):
        call(name, model, ids, mask)
    experts = model.get_submodule(family.experts)
    with torch.no_grad():
        rows = [
            act(family.gate(experts, expert, told.entering(token, slot))).numpy()
            for (token, slot), expert in told.chosen.items()
        ]
    tokens = np.array([token for token, _ in told.chosen])
    windows = np.where(mask.numpy().ravel()[tokens] > 0, tokens // 7, -1)
    values, kept = np.stack(rows), windows >= 0
    assert not kept.all()
    table = recorder.formats.frame().set_index("format")
    assert len(table) == len(recorder.formats.formats)
    for name_of, row in table.iterrows():
        brute = brute_restore(values, str(name_of), windows)
        wide, new = (part[kept].astype(np.float64) for part in (values, brute.values))
        error = ((wide - new) ** 2).sum(1)
        energy = (wide**2).sum(1)
        assert row["count"] == wide.size
        # A value between two elements may be rounded to the other one.
        assert row["error"] == pytest.approx(error.sum(), rel=1e-3)
        assert row["token_error_share"] == pytest.approx((error / energy).mean(), rel=1e-3)
        assert row["zeroed"] == pytest.approx(((new == 0) & (wide != 0)).mean(), abs=0.01)
        if name_of in ("int8-channel", "fp8-e4m3"):
            units = [np.abs(wide[windows[kept] == n]) for n in (0, 1, 2)]
            most = [u.max() if name_of == "fp8-e4m3" else u.max(0) for u in units]
            assert row["max_p100"] == pytest.approx(np.max(most), rel=2**-8)
            assert row["max_p50"] == pytest.approx(np.median(np.hstack(most)), rel=2**-7)
