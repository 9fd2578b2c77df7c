"""Style of the figures: independent of the user's settings, page formats, widths of texts."""

from __future__ import annotations

import io
import threading

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.artists import texts_of
from support.figure_checks import problems
from support.synthetic_runs import Synthetic, place, run_of, silu_run

from distviz import plots
from distviz.errors import RequestError
from distviz.plots import style
from distviz.plots.layout import Heading, Line
from distviz.plots.style import shortened, text_width, wrapped


def test_a_users_style_does_not_reach_the_figures(synthetic: Synthetic) -> None:
    plain = plots.paired(synthetic.run, 0)
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30}):
        figure = plots.paired(synthetic.run, 0)
    assert figure.axes[0].get_facecolor() == plain.axes[0].get_facecolor()
    sizes = [text.get_fontsize() for text in figure.texts]
    assert sizes == [text.get_fontsize() for text in plain.texts]


def test_a_name_with_dollars_is_no_formula() -> None:
    run = run_of({place(0, "before"): np.ones(5, np.float32)}, model={"name": "hub/a$b$c"})
    figure = plots.paired(run, 0)
    assert any(word.startswith("a$b$c · layer 0") for word in texts_of(figure))


def test_figures_can_be_drawn_in_threads(synthetic: Synthetic) -> None:
    failures: list[BaseException] = []
    settings = dict(mpl.rcParams)

    def work() -> None:
        try:
            figure = plots.paired(synthetic.run, 0)
            with style.styled():
                figure.savefig(io.BytesIO())
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert dict(mpl.rcParams) == settings


def test_a_page_format_does_not_stay_in_force() -> None:
    plots.overview(silu_run().run, width="single")
    assert style.page_format().name == "screen"
    with pytest.raises(ZeroDivisionError), style.styled("double"):
        _ = 1 / 0
    assert style.page_format().name == "screen"


def test_an_unknown_width_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--figure-width is 'singel' \(did you mean 'single'"):
        plots.overview(silu_run().run, width="singel")


def test_texts_are_broken_where_they_are_too_wide() -> None:
    text = "one · two three · 5 % of them · a-word-that-is-much-too-long-for-the-line"
    lines = wrapped(text, 0.8, 7.0)
    assert all(text_width(line, 7.0) <= 0.8 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith(("·", "%")) for line in lines)
    short = shortened("a/very/long/path/to/a/model", 1.0, 7.0)
    assert text_width(short, 7.0) <= 1.0
    assert short.startswith("a/very")
    assert short.endswith("l")
    assert "…" in short


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0"), (950, "950"), (250_000, "250 k"), (1.5e6, "1.5 M")]
)
def test_counts_are_shortened(value: float, expected: str) -> None:
    assert style.short_count(value) == expected


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_long_lines_of_headings_stay_within_the_figure(weight: str) -> None:
    text = "Worst layer (outlined): 11 (int8 13.5 dB, int8-asym 16.9 dB, int4 8.5 dB, "
    text += "int4-asym 9.5 dB), 0 (fp8-e4m3 31.6 dB, fp8-e5m2 25.6 dB)"
    for width in (3.25, 6.75, 7.2):
        with style.styled():
            figure = Figure(figsize=(width, 4))
            Heading([Line(text, "panel", weight=weight)], width).write(figure)
        assert not [one for one in problems(figure) if "cut" in one or "edge" in one]
