"""The report as a file: valid HTML, everything escaped, nothing from outside, the numbers right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.html_pages import (
    browsers,
    elements,
    strict,
    texts_of,
)
from support.synthetic_comparisons import make

from distviz.errors import RequestError
from distviz.reports import page_of, report_folders
from distviz.reports.rendering import render
from distviz.results.run import Run
from distviz.studies.comparison import compare


def test_several_folders_have_a_part_each(run_folder: Path, tmp_path: Path) -> None:
    a, b = make(0).run, make(1, scale=1.4).run
    compared = compare(a, b).save(tmp_path / "compared")
    text = render(page_of([run_folder, compared, run_folder]))
    strict(text)
    assert len(elements(text, "article")) == 3
    assert len(browsers(text)) == 3
    contents = [texts_of(one) for one in elements(text, "a")]
    assert "synthetic · run" in contents


def test_equal_folders_give_equal_bytes(run_folder: Path) -> None:
    assert render(page_of([run_folder])) == render(page_of([run_folder]))


def test_the_file_is_written_where_requested(run_folder: Path, tmp_path: Path) -> None:
    copy = Run.load(run_folder).save(tmp_path / "copy")
    assert report_folders([copy]) == copy / "report.html"
    assert report_folders([copy]) == copy / "report.html"
    out = tmp_path / "new" / "one.html"
    assert report_folders([copy], out) == out
    with pytest.raises(RequestError, match=re.escape(f"{out} exists")):
        report_folders([copy], out)
    report_folders([copy], out, force=True)
    assert [path.name for path in out.parent.iterdir()] == ["one.html"]
    with pytest.raises(RequestError, match="is a folder"):
        report_folders([copy], copy)
    with pytest.raises(RequestError, match="ends in no name"):
        report_folders([copy], tmp_path / "new" / "..", force=True)
    (tmp_path / "mine.html").write_text("<!DOCTYPE html><title>mine</title>")
    with pytest.raises(RequestError, match="is no report of distviz"):
        report_folders([copy], tmp_path / "mine.html", force=True)
    (tmp_path / "linked.html").symlink_to(out)
    with pytest.raises(RequestError, match="is a link and is not replaced"):
        report_folders([copy], tmp_path / "linked.html", force=True)
    with pytest.raises(RequestError, match="is not"):
        report_folders([tmp_path])
