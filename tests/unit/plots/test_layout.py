"""Constrained layout: panels have the heights requested, legends list each label once."""

from __future__ import annotations

import pytest

from distviz.plots import layout, style


@pytest.mark.parametrize("width", [None, "single", "double"])
def test_rows_have_the_heights_requested(width: str | None) -> None:
    heights = [1.0, 0.5]
    with style.styled(width) as page:
        figure, axes = layout.stacked(page.or_width(7.2), heights)
        layout.panel_title(axes[1], "a title that is much longer than a column of a paper " * 3)
        layout.arrange(figure, layout.titled(page.or_width(7.2), "model", "caption"), heights)
    inches = [ax.get_position().height * figure.get_figheight() for ax in axes]
    assert inches == pytest.approx(heights, abs=0.01)


def test_a_legend_lists_each_label_once() -> None:
    with style.styled():
        _, (ax,) = layout.stacked(7.2, [1.0])
        handles = [ax.plot([0, 1], [0, 1])[0] for _ in range(3)]
        layout.legend_above(ax, handles, ["a", "b", "a"])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
