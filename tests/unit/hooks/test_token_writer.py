"""A row for each token, against a loop over every value in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distviz.errors import MeasurementError
from distviz.hooks.moe_layouts import Routed
from distviz.hooks.recorder import Recorder
from distviz.hooks.token_writer import TokenWriter
from distviz.hooks.tokens import Tokens
from distviz.sites import HookPoint, SiteKey
from distviz.stats import decode, encode

POINT = HookPoint(0, "decoder", "act", "m", "output")
KEY = SiteKey(0, "decoder", "act", "before", "m")
BATCH, LENGTH, CHANNELS = 3, 7, 90
Row = tuple[int, int, int, int, float, float]


def tokens(number: int, **fields: Any) -> Tokens:
    """The first document is that of the batch before, in the next window."""
    maker = np.random.default_rng(number)
    counted = maker.random((BATCH, LENGTH)) < 0.8
    documents = np.arange(BATCH) + (BATCH - 1) * number
    index = ((number * (np.arange(BATCH) == 0))[:, None] << 32) + np.arange(LENGTH)
    ids = maker.integers(0, 50, (BATCH, LENGTH))
    zeros = np.zeros((BATCH, LENGTH), np.int64)
    return Tokens(counted, counted, documents, index, zeros, ids=ids, **fields)


def drawn(number: int, rows: int = BATCH * LENGTH, dtype: torch.dtype = torch.float32) -> Any:
    """Many equal magnitudes; a few values and all of one row are not finite."""
    maker = torch.Generator().manual_seed(number)
    values = (2 * torch.randn(rows, CHANNELS, generator=maker)).round() / 3
    values[3, 1], values[5, 2], values[5, 0] = math.nan, math.inf, -math.inf
    values[8] = math.nan
    return values.to(dtype)


def by_hand(of: Tokens, values: torch.Tensor, owners: Any = None) -> dict[tuple[int, int], Row]:
    """(document, index) -> the row, from all rows of the tensor that belong to the token."""
    found = {}
    array = values.double().numpy()
    for token in np.flatnonzero(of.counted):
        own = array[[token] if owners is None else np.flatnonzero(owners == token)]
        document, index = int(of.documents[token // LENGTH]), int(of.index.ravel()[token])
        every = [(abs(x), -channel) for row in own for channel, x in enumerate(row)]
        finite = [one for one in every if math.isfinite(one[0])]
        largest, channel = max(finite, default=(math.nan, 1))
        norm = math.sqrt(math.fsum(x * x for x, _ in finite)) if finite else math.nan
        name = int(of.ids.ravel()[token])  # type: ignore[union-attr]
        found[document, index] = (document, index, name, -channel, largest, norm)
    return found


def assert_rows(writer: TokenWriter, expected: dict[tuple[int, int], Row]) -> None:
    rows = np.concatenate([file.read() for file in writer.all_files()[KEY]])
    assert len(rows) == len(expected)
    for row in rows.tolist():
        wanted = expected[row[0], row[1]]
        np.testing.assert_array_equal(row[:5], wanted[:5])
        np.testing.assert_allclose(row[5], wanted[5], rtol=1e-14)


def recorded(folder: Path, numbers: list[int], dtype: torch.dtype = torch.float32) -> TokenWriter:
    recorder = Recorder(tokens=TokenWriter(folder))
    for number in numbers:
        recorder.add(POINT, "before", drawn(number, dtype=dtype), tokens(number))
    assert recorder.tokens is not None
    return recorder.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_by_hand(dtype: torch.dtype, tmp_path: Path) -> None:
    expected = {}
    for number in range(4):
        expected |= by_hand(tokens(number), drawn(number, dtype=dtype))
    assert_rows(recorded(tmp_path, [0, 1, 2, 3], dtype), expected)


def test_parts_and_states_add(tmp_path: Path) -> None:
    expected = {}
    for number in range(4):
        expected |= by_hand(tokens(number), drawn(number))
    saved = decode(encode({"x": recorded(tmp_path, [1, 2]).state()}))["x"]
    resumed = TokenWriter(tmp_path) + TokenWriter.from_state(saved)
    resumed.check()
    resumed.add(KEY, drawn(0), tokens(0))
    assert_rows(resumed + recorded(tmp_path / "other", [3]), expected)
    assert_rows(recorded(tmp_path / "other", [3]) + resumed, expected)


def test_what_follows_a_state_is_not_in_it(tmp_path: Path) -> None:
    writer = recorded(tmp_path, [0])
    state = writer.state()
    writer.add(KEY, drawn(1), tokens(1))
    assert_rows(TokenWriter.from_state(state), by_hand(tokens(0), drawn(0)))
    (path,) = tmp_path.glob("rank-0-*.rows")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
        TokenWriter.from_state(state).check()
    path.write_bytes(data[:40])
    with pytest.raises(ValueError, match="is damaged"):
        TokenWriter.from_state(state).check()
    path.unlink()
    with pytest.raises(ValueError, match="No such file"):
        TokenWriter.from_state(state).check()


def test_the_rows_of_experts_are_one_row_of_their_token(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    owners = rng.permutation(np.repeat(np.arange(BATCH * LENGTH), 2))
    owners[4] = -1
    routed = Routed(owners, rng.integers(0, 4, owners.size), np.arange(owners.size) % 2, 21, 4)
    of, values = tokens(2, routed=routed), drawn(2, owners.size)
    recorder = Recorder(tokens=TokenWriter(tmp_path))
    recorder.add(POINT, "before", values, of)
    assert recorder.tokens is not None
    assert_rows(recorder.tokens, by_hand(of, values, owners))


def test_a_temporary_folder_goes_with_the_writer() -> None:
    writer = recorded(None, [0])  # type: ignore[arg-type]
    folder = writer.temporary[0].path
    assert len(list(folder.glob("*.rows"))) == 1
    writer.temporary.clear()
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MeasurementError, match="rows of --tokens cannot be written"):
        recorded(tmp_path / "file" / "inside", [0])
