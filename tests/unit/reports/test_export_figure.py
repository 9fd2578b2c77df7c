"""`distviz export --figure`: exactly the figures of a kind, and PDF files that publishers take."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from support.synthetic_comparisons import make
from support.synthetic_runs import silu_run

from distviz.reports import export as exports
from distviz.studies import comparison as comparing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.commands import Done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.write_folder(silu_run().run, tmp_path_factory.mktemp("one") / "run", figures=())


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = comparing.compare_runs(make(1).run, make(2, scale=1.3).run)
    return exports.write_folder(found, tmp_path_factory.mktemp("one") / "cmp", figures=())


def _names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_exactly_one_file(folder: Path, call: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--figure", "paired", "--layers", "0", "--format", "pdf", "--out", out)
    done = call("export", folder, *options)
    assert done.code == 0
    assert done.out == f"{out / 'layer_000_act.pdf'}\n"
    assert done.err == ""
    assert _names(out) == ["layer_000_act.pdf"]
    again = call("export", folder, *options)
    assert again.code == 2
    assert "exists" in again.err


def test_all_of_a_kind_where_no_layer_is_named(folder: Path, tmp_path: Path) -> None:
    exports.export_folder(folder, tmp_path, figure=["paired"])
    assert _names(tmp_path) == [f"layer_00{layer}_act.png" for layer in range(3)]


def test_several_kinds_formats_and_tables(
    comparison: Path, call: Callable[..., Done], tmp_path: Path
) -> None:
    done = call(
        "export", comparison, "--figure", "overview", "--figure", "classes",
        "--format", "svg,pdf", "--tables", "json", "--out", tmp_path / "out", "--quiet",
    )  # fmt: skip
    assert done.code == 0
    names = _names(tmp_path / "out")
    assert [name for name in names if not name.endswith("json")] == [
        "overview.pdf", "overview.svg", "token_classes.pdf", "token_classes.svg",
    ]  # fmt: skip
    assert "compare.json" in names


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--figure", "piared"), "piared: this result has no such figure (did you mean 'paired'?)",
         "it has paired, overview"),
        (("--figure", "compared"), "--figure compared: this result has no such figure",
         "it has paired, overview"),
        (("--figure", "paired", "--format", "none"), "--figure needs a format", "--format pdf"),
        (("--figure", "paired", "--format", "gif"), "--figures gif: unknown format", "png, svg"),
        (("--figure-width", "wide"), "--figure-width is 'wide'", "single, double"),
    ],
)  # fmt: skip
def test_unknown_figures_are_refused(
    folder: Path, call: Callable[..., Done], options: tuple[str, ...], message: str, hint: str
) -> None:
    done = call("export", folder, *options, "--out", "out")
    assert done.code == 2
    assert message in done.err
    assert hint in done.err


# A small reader of PDF, independent of what wrote it ------------------------------------------


def _objects(data: bytes) -> dict[int, bytes]:
    pattern = rb"(?ms)^(\d+) 0 obj\r?\n(.*?)\r?\nendobj"
    return {int(number): body for number, body in re.findall(pattern, data)}


def _reference(body: bytes, name: bytes) -> int:
    found = re.search(rb"/" + name + rb"\s+(\d+) 0 R", body)
    assert found is not None, (name, body)
    return int(found[1])


def _font_programs(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and program of every font: what /Font points to, down to the font file."""
    objects = _objects(data)
    found = []
    for body in objects.values():
        if re.search(rb"/Type\s*/Font\b(?!Desc)", body) and b"/FontDescriptor" in body:
            kind = re.search(rb"/Subtype\s*/(\w+)", body)
            descriptor = objects[_reference(body, b"FontDescriptor")]
            stream = objects[_reference(descriptor, b"FontFile2")]
            raw = stream.split(b"stream\n", 1)[1].rpartition(b"\nendstream")[0]
            assert kind is not None
            found.append((kind[1], zlib.decompress(raw)))
    return found


@pytest.mark.parametrize("width", [None, "single", "double"])
def test_fonts_are_embedded_as_truetype(folder: Path, tmp_path: Path, width: str | None) -> None:
    exports.export_folder(
        folder, tmp_path, figure=["paired", "overview"], figures="pdf", width=width
    )
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"/Type3" not in re.sub(rb"\s", b"", data)
        fonts = _font_programs(data)
        assert len(fonts) >= 2  # plain and bold
        for kind, program in fonts:
            assert kind in {b"CIDFontType2", b"TrueType"}
            assert program[:4] == b"\x00\x01\x00\x00"  # a TrueType font
            tables = int.from_bytes(program[4:6], "big")
            names = {program[12 + 16 * i : 16 + 16 * i] for i in range(tables)}
            assert {b"glyf", b"loca", b"head"} <= names


@pytest.mark.parametrize("width", ["single", "double"])
def test_the_page_is_as_wide_as_asked_and_the_bytes_are_the_same(
    folder: Path, tmp_path: Path, width: str
) -> None:
    files: list[Any] = []
    for name in ("first", "second"):
        files += exports.export_folder(
            folder, tmp_path / name, figure=["overview"], figures="pdf", width=width
        )
    first, second = (path.read_bytes() for path in files)
    assert first == second
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", first)
    assert box is not None
    assert float(box[1]) == {"single": 234.0, "double": 486.0}[width]  # points: 3.25 and 6.75 in


def test_svg_draws_text_as_outlines(folder: Path, tmp_path: Path) -> None:
    (path,) = exports.export_folder(folder, tmp_path, figure=["overview"], figures="svg")
    assert "<text" not in path.read_text(encoding="utf-8")
