"""Documents: text, JSON lines, standard input, and the errors of bad files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distviz.data.documents import Reading, list_sources, read_documents
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
        ("a.jsonl", b'{"text": "t", "question": "q"}\n', r"line 1 has 'text', 'question'"),
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


# Rows ---------------------------------------------------------------------------------------

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
ASKS, ANSWERS = HI | {"content": "q"}, HELLO | {"content": "a"}
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [HI]}, {"system": "", "question": "Hi"}),
        (
            {"messages": [{"role": "system", "content": "S"}, HI]},
            {"system": "S", "question": "Hi"},
        ),
        ({"messages": [HI, HELLO]}, {"messages": [HI, HELLO]}),
        ({"conversations": SHARED}, {"messages": [HI, HELLO]}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, HELLO]},
         {"messages": [HI, HELLO]}),
        ({"question": "q", "answer": "a"}, {"messages": [ASKS, ANSWERS]}),
        ({"question": "q", "answer": " "}, {"system": "", "question": "q"}),
        ({"prompt": "q", "completion": "a"}, {"messages": [ASKS, ANSWERS]}),
        ({"prompt": [ASKS], "completion": [ANSWERS]}, {"messages": [ASKS, ANSWERS]}),
        ({"prompt": [ASKS]}, {"system": "", "question": "q"}),
        ({"instruction": "i", "input": "q", "output": "a"},
         {"messages": [ASKS | {"content": "i\nq"}, ANSWERS]}),
        ({"instruction": "q", "input": "", "output": "a"}, {"messages": [ASKS, ANSWERS]}),
        ({"instruction": "q", "system": "S"}, {"system": "S", "question": "q"}),
        ({"system": "S", "question": "q", "answer": "a"},
         {"messages": [{"role": "system", "content": "S"}, ASKS, ANSWERS]}),
        ({"text": "a", "system": None, "question": None}, {"text": "a"}),
        ({"text": "", "question": "q"}, {"system": "", "question": "q"}),
        ({"text": "a\r\nb\x00\ufeff"}, {"text": "a\r\nb\x00\ufeff"}),
        ({"id": "a\nb\x1b\u2028", "text": "x"}, {"id": "a\nb\x1b\u2028", "text": "x"}),
        ({"id": 7.5, "text": "x"}, {"id": "7.5", "text": "x"}),
    ],
)  # fmt: skip
def test_rows_survive_their_own_file(
    tmp_path: Path, row: dict[str, Any], expected: dict[str, Any]
) -> None:
    (document,) = found = read_documents([row])
    assert document.as_dict() == {"id": "0"} | expected
    assert not found.notes
    saved = write(tmp_path, "documents.jsonl", json.dumps(document.as_dict()) + "\n")
    assert read_documents([saved]) == [document]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"question": "q", "answer": 2, "choices": ["a"]}, "'answer', 'choices'"),
        ({"prompt": "q", "chosen": "a"}, "'chosen'"),
        ({"text": "t", "system": "s", "url": ""}, "'system', 'url'"),
        ({"messages": [HI], "tools": [], "system": "s"}, "'tools', 'system'"),
        ({"messages": [HI | {"name": "Anna"}, HELLO]}, "'name of a message'"),
        ({"text": "t", **{str(n): n for n in range(20)}}, "'7' and 12 more"),
    ],
)
def test_fields_that_are_not_measured_are_named_once(row: dict[str, Any], names: str) -> None:
    (note,) = read_documents([row, row, row]).notes
    assert note.startswith("the given text: these fields are not measured: ")
    assert note.endswith(names)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "a\ud83d"}, r"'text' has a lone surrogate \(U\+D83D, character 2\)"),
        ({"question": "\udc80"}, "'question' has a lone surrogate"),
        ({"system": "\ud83d", "question": "q"}, "'system' has a lone surrogate"),
        ({"id": "\ud83d", "text": "a"}, "'id' has a lone surrogate"),
        ({"messages": [HI | {"content": "\ud83d"}]}, "message 1: 'content' has a lone surrogate"),
        ({"messages": [HI | {"role": "\ud83d"}]}, "message 1: 'role' has a lone surrogate"),
        ({"text": "a", "id": [1]}, "'id' is not a string or a number"),
        ({"text": "a", "id": True}, "'id' is not a string or a number"),
        ({"text": "a", "id": float("nan")}, "'id' is nan"),
        ({"text": "a", "id": 10**5000}, "'id' has too many digits"),
        ({"input": "i", "output": "o"}, "its fields are input, output; name one with --text-fie"),
        ({}, "its fields are none"),
        ({"messages": "Hi"}, "is not a list of messages"),
        ({"messages": [5]}, 'expected an object with "role" and "content"'),
        ({"messages": [{"content": "Hi"}]}, 'expected an object with "role"'),
        ({"messages": [{"role": "user", "content": None}]}, "'content' is not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "is not text"),
        ({"messages": [{"role": " ", "content": "Hi"}]}, "'role' is empty"),
        ({"messages": [{"role": 5, "content": "Hi"}]}, "'role' is not a string"),
        ({"messages": [HI], "text": "t"}, "has 'text', 'messages'"),
        ({"messages": [HI], "conversations": [HI]}, "has 'messages', 'conversations'"),
        ({"instruction": "i", "text": "t"}, "has 'text', 'instruction'"),
        ({"prompt": 5}, "'prompt' is not a string"),
        ({"instruction": "i", "input": 5}, "'input' is not a string"),
        ({"messages": []}, "the text is empty"),
        ({"messages": [HI | {"content": " "}]}, "the text is empty"),
    ],
)
def test_what_a_bad_row_gets(row: dict[str, Any], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_documents([row])


@pytest.mark.parametrize("text", ["Hello", b"Hello", Path("a.txt"), {"text": "a"}, 5, None, [], ()])
def test_text_from_python_is_a_list(text: Any) -> None:
    with pytest.raises(RequestError, match=r"must be a list of documents|the text is empty"):
        list_sources(text)
    assert list_sources(iter(["a"])) == ["a"]


@pytest.mark.parametrize("source", [5, None, b"Hello", ["a"], 1.5])
def test_a_document_of_another_type_is_refused(source: Any) -> None:
    with pytest.raises(RequestError, match=f"document 1 is a {type(source).__name__}"):
        read_documents(["a", source])


def test_a_number_of_documents_and_another_order() -> None:
    texts = [f"text {number}" for number in range(50)]
    first = [one.text for one in read_documents(texts, Reading(most=3))]
    assert first == texts[:3]
    mixed = [one.text for one in read_documents(texts, Reading(seed=1))]
    assert mixed != texts
    assert sorted(mixed) == sorted(texts)
    assert [one.text for one in read_documents(texts, Reading(seed=1, most=5))] == mixed[:5]
    assert [one.text for one in read_documents(texts, Reading(seed=2, most=5))] != mixed[:5]
    order = np.random.default_rng(1).permutation(50)
    assert mixed == [texts[number] for number in order]
