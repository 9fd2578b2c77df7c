"""Parts of the histograms: what lies outside the window, and the table of numbers."""

from __future__ import annotations

from matplotlib.figure import Figure
from support.artists import artists, shown_text, texts_of
from support.synthetic_runs import Synthetic, silu_run

from distviz import plots
from distviz.plots import histograms, style


def test_values_beyond_the_window_are_stated(synthetic: Synthetic) -> None:
    figure = plots.paired(synthetic.run, 2, log=False)
    raw = synthetic.raw[2, "before"]
    share = (raw >= figure.axes[0].get_xlim()[1]).mean()
    assert 0 < share <= 0.01
    expected = f"{100 * share:.2f} % above the axis, max {raw.max():.2f}"
    (note,) = artists(figure.axes[0], "beyond")
    energy = (raw[raw > figure.axes[0].get_xlim()[1]] ** 2).sum() / (raw**2).sum()
    assert note.get_text() == f"{expected}\ntogether {100 * energy:.2f} % of Σx²"


def test_values_beyond_the_window_are_stated_below_on_one_column() -> None:
    run = silu_run().run
    raw = silu_run().raw[2, "before"]
    figure = plots.paired(run, 2, log=False, width="single")
    share = (raw >= figure.axes[0].get_xlim()[1]).mean()
    assert f"above the axis {100 * share:.2f} % to {raw.max():.2f}" in shown_text(figure)


def test_a_row_for_each_side_that_has_values_beyond() -> None:
    tails = (((0.0, -1.0), (0.25, 9.0)), ((0.0, -2.0), (0.0, 3.0)))
    assert list(histograms.beyond_rows(tails)) == [("above the axis", ["25.0 % to 9.00", "–"])]
    assert histograms.beyond_texts(tails[1]) == []


def test_the_number_table_ends_where_its_height_says() -> None:
    rows = [("count", ["1", "2"]), ("KS", ["0.5"])]
    with style.styled():
        figure = Figure(figsize=(4.0, 3.0))
        heads = [("A", style.INK), ("B", style.MUTED)]
        end = histograms.number_table(
            figure, heads, rows, left=0.1, right=3.9, top=0.5, ruled=["KS"]
        )
        height = histograms.table_height(rows, ["KS"])
    assert texts_of(figure) == ["A", "B", "count", "1", "2", "KS", "0.5"]
    assert len(figure.artists) + len(figure.lines) == 1
    assert 0 < end - 0.5 - height < 0.2
