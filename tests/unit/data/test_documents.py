"""Documents: text, JSON lines, standard input, and the errors of bad files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from distviz.data.documents import read_documents
from distviz.errors import RequestError

# Reading ------------------------------------------------------------------------------------


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path, "story.txt", "one\n\ntwo\n")
    (document,) = read_documents([path])
    assert (document.id, document.text) == ("story.txt", "one\n\ntwo\n")


def test_sources_join_in_order(tmp_path: Path) -> None:
    first = write(tmp_path, "a.txt", "A")
    second = write(tmp_path, "b.jsonl", '{"text": "B"}\n{"question": "C?"}\n')
    found = read_documents([first, second, "D", {"system": "S", "question": "E?"}])
    assert [d.text or d.question for d in found] == ["A", "B", "C?", "D", "E?"]
    assert [d.is_prompt for d in found] == [False, False, True, False, True]


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": 7, "text": "x\ny", "other": [1]}),
        "",
        json.dumps({"system": "S", "question": "Q"}),
    ]
    path = write(tmp_path, "d.jsonl", "\r\n".join(lines) + "\r\n")
    first, second = read_documents([path])
    assert (first.id, first.text) == ("7", "x\ny")
    assert (second.system, second.question) == ("S", "Q")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_json_strings_may_hold_what_python_takes_for_an_end_of_line(
    tmp_path: Path, mark: str
) -> None:
    text = f"a{mark}b"
    shown = text if mark > "\x1f" else json.dumps(text)[1:-1]
    path = write(tmp_path, "d.jsonl", f'{{"text": "{shown}"}}\n{{"text": "c"}}\n')
    assert [d.text for d in read_documents([path])] == [text, "c"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    plain = write(tmp_path, "a.txt", bom + b"text")
    lines = write(tmp_path, "a.jsonl", bom + b'{"text": "text"}\n')
    assert [d.text for d in read_documents([plain, lines])] == ["text", "text"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    give("größer\nals".encode())
    assert [d.text for d in read_documents([Path("-")])] == ["größer\nals"]
    give(b"")
    with pytest.raises(RequestError, match="empty"):
        read_documents([Path("-")])
    give(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="standard input is not UTF-8"):
        read_documents([Path("-")])


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n\t\n", r"a\.txt is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl is empty"),
        ("a.txt", b"caf\xe9 au lait", r"a\.txt is not UTF-8 text \(byte 3\)"),
        ("a.txt", b"PK\x03\x04\x00\x00abc", r"a\.txt is a binary file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n\nnope\n', r"a\.jsonl, line 3 is not JSON"),
        ("a.jsonl", b'["a"]\n', r"line 1: expected an object"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"line 2: expected"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: 'text' is not a string"),
        ("a.jsonl", b'{"text": null}\n', r"line 1: 'text' is not a string"),
        ("a.jsonl", b'{"system": "s"}\n', r"line 1: expected"),
        ("a.jsonl", b'{"text": "t", "question": "q"}\n', r"line 1: expected"),
        ("a.jsonl", b'{"text": ""}\n', r"line 1: expected"),
    ],
)
def test_what_a_bad_file_gets(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_documents([write(tmp_path, name, data)])


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.txt: No such file"):
        read_documents([tmp_path / "nowhere.txt"])
    with pytest.raises(RequestError, match="Is a directory"):
        read_documents([tmp_path])


@pytest.mark.parametrize("source", ["", "   ", "\n"])
def test_an_empty_text_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="empty"):
        read_documents([source])


def test_the_embedded_documents() -> None:
    found = read_documents([])
    assert len(found) >= 24
    assert len({document.id for document in found}) == len(found)
    assert all(document.text.strip() for document in found)
