"""Values as they are typed are right, or refused in one line that names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distviz.errors import RequestError
from distviz.parsing import (
    NOT_FINITE,
    amount,
    check_text,
    exact_percentage,
    parse_json,
    path_of,
    read_small_file,
    read_toml,
    shown,
    whole_number,
    whole_numbers,
    word_list,
)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("007", 7), ("１２", 12), ("9" * 18, 10**18 - 1)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text, "--n") == number
    assert whole_numbers(f"{text}, {text}", "--n", "") == [number]


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "1e3", "0x1", "²", "1_0", "9" * 19, "9" * 5000]
)
def test_no_whole_numbers(text: str) -> None:
    with pytest.raises(RequestError, match="is not a whole number"):
        whole_number(text, "--n")
    with pytest.raises(RequestError, match=r"--n '.*' (is not a list|has an empty)"):
        whole_numbers(text, "--n", "such as 1,2")


@pytest.mark.parametrize(
    ("text", "share", "percent"),
    [
        ("50%", "1/2", "50"),
        (" 12.5 % ", "1/8", "25/2"),
        ("0.7%", "7/1000", "7/10"),
        ("100%", "1", "100"),
        ("0", "0", "0"),
        ("1", "1", None),
        ("0.995", "199/200", None),
        ("2", None, "2"),
        ("99.5", None, "199/2"),
        ("150", "150", "150"),
        ("-3%", "-3/100", "-3"),
        ("1e-999999999", "0", "0"),
    ],
)
def test_amounts_are_exact(text: str, share: str | None, percent: str | None) -> None:
    for unit, expected in (("share", share), ("percent", percent)):
        if expected is None:
            with pytest.raises(RequestError, match=f"--n {text} may be .*%"):
                amount(text, "--n", unit)  # type: ignore[arg-type]
        else:
            assert str(amount(text, "--n", unit)) == expected  # type: ignore[arg-type]


def test_messages_give_both_readings() -> None:
    with pytest.raises(RequestError, match=r"--p1 0\.995 may be 99\.5% or 0\.995%"):
        amount("0.995", "--p1", "percent")
    with pytest.raises(RequestError, match=r"50 may be 50% or 50 times the whole") as caught:
        amount("50", "--fraction", "share")
    assert caught.value.hint == "write 50% or 0.5; 1 is the whole"


@pytest.mark.parametrize("text", ["", "%", "half", "nan", "inf%", "1e999999999", "1/2", "5%%"])
def test_no_amounts(text: str) -> None:
    with pytest.raises(RequestError, match=f"--n '{text}' is not a number"):
        amount(text, "--n", "share")


@pytest.mark.parametrize("value", [99.5, 1.0, 0.5, 0.1, 1e-9, 100.0, 0.0])
def test_an_exact_percentage_means_the_same_number(value: float) -> None:
    assert float(amount(exact_percentage(value), "--p1", "percent")) == value


def test_a_list_of_words() -> None:
    assert word_list("png, svg,png", "--figures", ("png", "svg")) == ["png", "svg"]
    with pytest.raises(RequestError, match=r"unknown is 'pgn' \(did you mean 'png'\?\)"):
        word_list("svg,pgn", "--figures", ("png", "svg"))
    for text in ("", ",", "png,,", "png, ", ",png"):
        with pytest.raises(RequestError, match="has an empty item in its list"):
            word_list(text, "--figures", ("png", "svg"))


def test_paths_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert path_of("~/x", "--out") == str(tmp_path / "x")
    assert path_of("x/~", "--out") == "x/~"
    Path("~kept").touch()
    assert path_of("~kept", "--out") == "~kept"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--out is empty"),
        (" ", "--out is empty"),
        ("~no-such-user/x", "there is no such user"),
        ("x\0y", r"holds the control character '\\x00'"),
        ("two\nlines", r"holds the control character '\\n'"),
        ("bad\udcff", "is not UTF-8"),
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("loop/x", "Too many levels of symbolic links"),
    ],
)
def test_paths_that_no_system_takes(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(RequestError, match=message) as caught:
        path_of(text, "--out")
    assert "\n" not in caught.value.message or "\n" in text


def test_files_are_small_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfc = 1")
    assert read_small_file(path, "a TOML file", 10) == "c = 1"
    with pytest.raises(RequestError, match="has 8 bytes, a TOML file has at most 7"):
        read_small_file(path, "a TOML file", 7)
    path.write_bytes(b"c = '\xff'")
    with pytest.raises(RequestError, match="byte 5 is not UTF-8"):
        read_small_file(path, "a TOML file", 10)
    os.mkfifo(tmp_path / "fifo")
    for other, kind in (
        ("fifo", "no regular file"),
        ("/dev/zero", "no regular file"),
        (".", "a folder"),
    ):
        with pytest.raises(RequestError, match=f"cannot be read: it is {kind}"):
            read_small_file(tmp_path / other, "a TOML file", 10)
    with pytest.raises(RequestError, match="does not exist"):
        read_small_file(tmp_path / "none", "a TOML file", 10)


def test_messages_show_a_part_of_what_is_large() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) < 100
    assert len(shown("x" * 10**6)) < 300
    assert shown(16**10_000) == "a whole number of 40,001 bits"
    assert (shown(0.5), shown("a"), shown(None)) == ("0.5", "'a'", "None")
    check_text("é\n\t\u202e", "--filler", is_line=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "it contains NaN"),
        ('{"a": [-Infinity]}', "it contains -Infinity"),
        ('{"a": {"b": 1, "b": 1}}', "the name 'b' twice"),
        ("[" * 200_000 + "]" * 200_000, "nested more than 50 levels"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("", "Expecting value"),
        (r'["\ud800"]', "half of a character"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_json_is_parsed_strictly(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text.encode())


def test_numbers_that_python_writes() -> None:
    assert parse_json(b"[NaN, Infinity, 1]", allows=NOT_FINITE)[1:] == [float("inf"), 1]
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')


def test_hyphens_are_underscores(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("max-length = 3\n")
    assert read_toml(path) == {"max_length": 3}
