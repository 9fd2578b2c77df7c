"""The tokenizer's files: every field with hostile values, damaged files, vocabularies."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from distviz.data.corpus import tokenize
from distviz.data.documents import Document
from distviz.errors import RequestError
from distviz.models.checkpoint import Checkpoint
from distviz.models.loading import LoadOptions, quiet
from distviz.models.tokenizer import check_tokenizer_files, read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {
    "null": "null",
    "list": "[1, [2]]",
    "object": '{"a": {"b": 1}}',
    "zero": "0",
    "number": "7",
    "negative": "-5",
    "NaN": "NaN",
    "infinite": "1e999",
    "digits": "9" * 4000,
    "surrogate": '"\\ud83d"',
    "long": json.dumps("x" * 1_000_000),
    "control": json.dumps("\x00\x1b[31m\n"),
    "true": "true",
    "empty": '""',
    "deep": "[" * 100_000 + "]" * 100_000,
}
FIELDS = (
    *("bos_token", "eos_token", "unk_token", "pad_token", "image_token", "add_bos_token"),
    *("split_special_tokens", "model_max_length", "padding_side", "tokenizer_class"),
    *("name_or_path", "backend", "model_input_names", "fast_tokenizer_files", "auto_map"),
    *("chat_control_tokens", "additional_special_tokens", "extra_special_tokens"),
    *("model_specific_special_tokens", "added_tokens_decoder", "chat_template", "init_inputs"),
    *("tokenizer_object", "vocab", "post_processor", "gguf_file", "add_tokens", "unknown"),
)


@pytest.fixture
def folder(tmp_path: Path, demo_folder: Path) -> Path:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_folder / name, tmp_path)
    return tmp_path


def ids_with(folder: Path) -> list[int]:
    options = LoadOptions(None, torch.device("cpu"), None, None, False)
    with quiet():
        tokenizer = read_tokenizer(Checkpoint(folder, "m", "m"), options)
    return list(tokenize([Document("a", text="12 apples")], tokenizer).windows[0].ids)


def ids_or_error(folder: Path) -> list[int] | RequestError:
    try:
        return ids_with(folder)
    except RequestError as error:
        return error


def set_field(path: Path, field: str, value: str) -> None:
    """Write JSON text as a field, whatever it is."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content.pop(field, None)
    rest = json.dumps(content)[1:-1]
    path.write_text(f"{{{json.dumps(field)}: {value}{', ' if rest else ''}{rest}}}")


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_right_or_refused_by_name(folder: Path, demo_folder: Path, field: str) -> None:
    expected = ids_with(demo_folder)
    path = folder / "tokenizer_config.json"
    for value in VALUES.values():
        set_field(path, field, value)
        found = ids_or_error(folder)
        if isinstance(found, RequestError):
            assert "tokenizer_config.json" in str(found)
            assert field in found.message or "JSON" in found.message
        else:
            assert found == expected


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("field", ["bos_token", "additional_special_tokens", "<x>"])
def test_maps_of_tokens_are_right_or_refused(folder: Path, name: str, field: str) -> None:
    for value in VALUES.values():
        set_field(folder / name, field, value)
        found = ids_or_error(folder)
        assert not isinstance(found, RequestError) or name in found.message
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("model_max_length", "512", "is '512', expected a number above 0"),
        ("model_max_length", -1, "is -1, expected a number above 0"),
        ("bos_token", {"content": 5}, 'expected a string or an object with "content"'),
        ("bos_token", {"content": "<s>", "lstrip": "yes"}, "expected a string or an object"),
        ("chat_template", 5, "is 5, expected a string, or a list"),
        ("chat_template", [{"template": "x"}], "expected a string, or a list"),
        ("added_tokens_decoder", {"-1": {"content": "x"}}, "expected an object of ids"),
        ("padding_side", "up", "is 'up', expected left or right"),
    ],
)
def test_the_message_says_what_is_expected(
    folder: Path, field: str, value: Any, match: str
) -> None:
    set_field(folder / "tokenizer_config.json", field, json.dumps(value))
    with pytest.raises(RequestError, match=match) as caught:
        check_tokenizer_files(folder)
    assert f"tokenizer_config.json: '{field}'" in caught.value.message


def change(folder: Path, *names: Any, value: Any) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    inside = content
    for name in names[:-1]:
        inside = inside[name]
    inside[names[-1]] = value
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("names", "value", "match"),
    [
        (("model", "dropout"), 0.5, "is random: tokenizer.json has dropout 0.5"),
        (("model", "vocab"), [], "tokenizer.json is damaged"),
        (("model", "merges"), [["no", "such"]], "tokenizer.json is damaged"),
        (("model",), None, "tokenizer.json is damaged"),
        (("version",), "9", "tokenizer.json is damaged"),
        (("added_tokens",), "x", "'added_tokens' is not a list of tokens"),
        (("added_tokens", 0, "id"), {"a": 1}, "tokenizer.json is damaged"),
        (("added_tokens", 0, "special"), "yes", "'added_tokens' is not a list of tokens"),
        (("pre_tokenizer", "type"), 5, "tokenizer.json is damaged"),
    ],
)
def test_a_damaged_vocabulary_is_named(
    folder: Path, names: tuple[Any, ...], value: Any, match: str
) -> None:
    change(folder, *names, value=value)
    with pytest.raises(RequestError, match=match):
        ids_with(folder)


@pytest.mark.parametrize("text", ["", "hello", "[]", "null", "{}", '{"model"', "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_no_json_object_is_named(
    folder: Path, demo_folder: Path, name: str, text: str
) -> None:
    (folder / name).write_text(text)
    if (name, text) == ("tokenizer_config.json", "{}"):
        assert ids_with(folder) == ids_with(demo_folder)
        return
    with pytest.raises(RequestError, match=name):
        ids_with(folder)


def test_truncation_and_padding_of_the_file_change_no_ids(folder: Path, demo_folder: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padded = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    change(folder, "truncation", value=cut)
    change(folder, "padding", value=padded)
    assert ids_with(folder) == ids_with(demo_folder)
