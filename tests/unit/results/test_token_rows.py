"""`tokens.parquet`: order, medians and ratios; reading, selecting and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from support.brute_force import lower_median as median_of
from support.synthetic_comparisons import make
from support.synthetic_runs import place

from distviz.errors import RequestError
from distviz.results import token_rows
from distviz.results.meanings import meanings_of
from distviz.results.run import Run
from distviz.results.token_rows import ROW, RowFile, RunToken, TokenFile, TokenRows, lower_median

KEYS = [
    place(layer, phase, site)
    for layer, phase, site in (
        *((1, "before", "act"), (0, "before", "residual")),
        *((0, "after", "act"), (0, "before", "act")),
    )
]


def rows_of(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros(size, ROW)
    rows["document"], rows["index"] = seed, np.arange(size) + (np.int64(size > 9) << 32)
    rows["token"], rows["channel"] = rng.integers(-1, 4, size), rng.integers(-1, 30, size)
    rows["absmax"], rows["l2"] = rng.lognormal(0, 3, size), rng.lognormal(2, 1, size)
    rows["absmax"][3] = np.nan
    return rows


def saved(folder: Path, seeds: tuple[int, ...] = (5, 2, 9), size: int = 40) -> TokenRows:
    files = {
        key: [
            RowFile(str(folder / f"{number}-{seed}.rows")).append(rows_of(seed, size))
            for seed in seeds
        ]
        for number, key in enumerate(KEYS)
    }
    return TokenRows(files, {0: "a", 1: "\n", 2: "ü", 3: ""})


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_rows_are_in_order_with_their_ratios(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_rows, "_CHUNK", chunk)
    saved(tmp_path).write(tmp_path / "tokens.parquet")
    table = TokenFile(tmp_path / "tokens.parquet").read()
    rows = np.concatenate([rows_of(seed, 40) for seed in (2, 5, 9)])
    places = table[["layer", "site", "phase"]].drop_duplicates().astype({"layer": int})
    assert places.to_numpy().tolist() == [
        [0, "act", "before"], [0, "act", "after"], [0, "residual", "before"], [1, "act", "before"],
    ]  # fmt: skip
    for _, part in table.groupby(["layer", "site", "phase"], observed=True):
        assert part["document"].tolist() == rows["document"].tolist()
        assert part["window"].tolist() == [1] * 120
        assert part["position"].tolist() == list(range(40)) * 3
        assert part["token"].tolist() == [["a", "\n", "ü", "", ""][one] for one in rows["token"]]
        for name in ("token_id", "channel"):
            raw = rows[name.removesuffix("_id")]
            assert part[name].isna().tolist() == (raw < 0).tolist()
            assert part[name].dropna().tolist() == raw[raw >= 0].tolist()
        for name in ("absmax", "l2"):
            np.testing.assert_array_equal(part[name], rows[name])
            middle = median_of(rows[name][~np.isnan(rows[name])])
            np.testing.assert_array_equal(part[f"{name}_ratio"], rows[name] / middle)


@pytest.mark.parametrize("size", [1, 2, 3, 40, 1000])
def test_the_median_is_found_by_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_rows, "_CHUNK", 13)
    rows, rng = np.zeros(size, ROW), np.random.default_rng(size)
    for values in (rng.lognormal(0, 20, size), rng.integers(0, 3, size), np.zeros(size)):
        rows["absmax"] = values
        assert lower_median(rows, "absmax") == median_of(values.astype(float))
    rows["absmax"] = np.nan
    assert np.isnan(lower_median(rows, "absmax"))


def test_a_run_keeps_its_rows(tmp_path: Path) -> None:
    run = Run(**{**vars(make(1).run), "tokens": saved(tmp_path)})
    loaded = Run.load(run.save(tmp_path / "run"))
    assert isinstance(loaded.tokens, TokenFile)
    table = loaded.tokens.read()
    assert len(table) == 480
    again = Run.load(loaded.save(tmp_path / "again"))
    assert (tmp_path / "again/tokens.parquet").read_bytes() == (
        tmp_path / "run/tokens.parquet"
    ).read_bytes()
    assert again.file_warnings == ()
    part = loaded.select(layers=[0], sites=["act"])
    for one in (part, Run.load(part.save(tmp_path / "part")), run.select([0], ["act"])):
        if isinstance(one.tokens, TokenRows):
            one.tokens.write(tmp_path / "direct.parquet")
            shown = TokenFile(tmp_path / "direct.parquet").read()
        else:
            assert one.tokens is not None
            shown = one.tokens.read()
        expected = table[(table["layer"] == 0) & (table["site"] == "act")]
        pd.testing.assert_frame_equal(
            shown.astype(str), expected.reset_index(drop=True).astype(str)
        )


def test_a_damaged_or_changed_file_is_named(tmp_path: Path) -> None:
    run = Run(**{**vars(make(1).run), "tokens": saved(tmp_path)})
    folder = run.save(tmp_path / "run")
    file = folder / "tokens.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.slice(3), file)
    assert "tokens.parquet changed" in Run.load(folder).file_warnings[0]
    parquet.write_table(table.drop(["l2"]), file)
    with pytest.raises(RequestError, match=r"tokens\.parquet is damaged: it has no column l2"):
        Run.load(folder)
    file.write_bytes(b"nothing")
    with pytest.raises(RequestError, match=r"tokens\.parquet is damaged"):
        Run.load(folder)


def test_every_column_has_a_meaning(tmp_path: Path) -> None:
    saved(tmp_path).write(tmp_path / "tokens.parquet")
    names = list(TokenFile(tmp_path / "tokens.parquet").read())
    assert set(RunToken.__struct_fields__) == set(names)
    found = [one for group, _ in meanings_of("run tokens", names) for one in group.split(", ")]
    assert sorted(found) == sorted(names)
