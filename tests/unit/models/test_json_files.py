"""JSON files of a checkpoint that hold anything but what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distviz.errors import RequestError
from distviz.models.json_files import read_json

DEEP = 200_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "not readable JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not readable JSON"),
        (b'{"a": "\xff"}', "not readable JSON"),
        (b"\0" * 8, "not readable JSON"),
        (b'{"a": 1, "a": 2}', "the name 'a' twice"),
        (b'{"b": {"a": 1, "a": 1}}', "the name 'a' twice"),
        (b'{"a": NaN}', "contains NaN"),
        (b'{"a": "\\ud800"}', "half of a character"),
        (b'{"\\ud800": 1}', "half of a character"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
        (b"[" * DEEP + b"]" * DEEP, "nested more than 50 levels"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested more than 50 levels"),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 50 levels"),
        (b'{"a": "' + b"x" * (1 << 26) + b'"}', "67,108,873 bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_json_object_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=reason) as caught:
        read_json(path)
    assert caught.value.message.startswith(str(path))
    assert len(str(caught.value).splitlines()) <= 2


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(RequestError, match="is not readable JSON"):
            read_json(path)


def test_what_configurations_hold_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    content = {"limit": [0.0, float("inf")], "ü": {"a": [{"b": None}]}, "eps": 1e-6}
    path.write_text(json.dumps(content, ensure_ascii=False))
    assert read_json(path) == content
