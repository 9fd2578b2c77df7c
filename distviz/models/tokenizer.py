"""Read a tokenizer, whose files are checked field by field."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from distviz.errors import RequestError, first_line
from distviz.models.checkpoint import Checkpoint
from distviz.models.config_fields import is_a, is_list_of
from distviz.models.gguf_reading import gguf_option
from distviz.models.json_files import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from distviz.models.loading import LoadOptions

CONFIG = "tokenizer_config.json"
VOCABULARY = "tokenizer.json"
_TOKEN_MAPS = ("special_tokens_map.json", "added_tokens.json")
_MOST_DIGITS = 400
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_NOT_NULL = frozenset(
    ("split_special_tokens", "padding_side", "truncation_side", "model_input_names", "init_inputs",
     "fast_tokenizer_files", "model_specific_special_tokens", "added_tokens_decoder", "auto_map")
)  # fmt: skip


def _is_token(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    if not isinstance(value, dict) or not set(value) <= {"content", "id", "__type", *_FLAGS}:
        return False
    flags = [value[name] for name in _FLAGS if name in value]
    return isinstance(value.get("content"), str) and all(map(is_a(bool), flags))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and value > 0 and (isinstance(value, float) or value < 10**_MOST_DIGITS)


def _is_tokens(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and all(map(_is_token, values))


def _is_decoder(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isdecimal() and len(key) < 10 and isinstance(one, dict) and _is_token(one)
        for key, one in value.items()
    )


def _is_template(value: Any) -> bool:
    def is_named(one: Any) -> bool:
        names = ("name", "template")
        return isinstance(one, dict) and all(isinstance(one.get(name), str) for name in names)

    return isinstance(value, str) or is_list_of(is_named)(value)


_TOKEN = (_is_token, 'a string or an object with "content"')
_FLAG = (is_a(bool), "true or false")
_NUMBER = (_is_number, "a number above 0")
_TEXT = (is_a(str), "a string")
_TEXTS = (is_list_of(is_a(str)), "a list of strings")
_TOKENS = (_is_tokens, "a list or an object of tokens")
_SIDE = (lambda value: value in ("left", "right"), "left or right")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        [f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")],
        _TOKEN,
    ),
    **dict.fromkeys(
        (
            *("add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens"),
            *("clean_up_tokenization_spaces", "do_lower_case", "legacy", "verbose"),
            *("strip_accents", "tokenize_chinese_chars", "fix_mistral_regex"),
        ),
        _FLAG,
    ),
    **dict.fromkeys(("model_max_length", "max_len", "max_length"), _NUMBER),
    **dict.fromkeys(("padding_side", "truncation_side"), _SIDE),
    **dict.fromkeys(
        ("tokenizer_class", "processor_class", "name_or_path", "backend", "tokenizer_type"), _TEXT
    ),
    **dict.fromkeys(
        ("model_input_names", "fast_tokenizer_files", "chat_control_tokens", "files_loaded"), _TEXTS
    ),
    **dict.fromkeys(("additional_special_tokens", "extra_special_tokens"), _TOKENS),
    "model_specific_special_tokens": (
        lambda value: isinstance(value, dict) and _is_tokens(value), "an object of tokens"
    ),
    "added_tokens_decoder": (_is_decoder, "an object of ids, each with a token"),
    "chat_template": (_is_template, "a string, or a list of objects with name and template"),
    "auto_map": (is_a(dict), "an object"),
    "init_inputs": (lambda value: value == [], "an empty list"),
    **dict.fromkeys(
        ("tokenizer_object", "vocab", "merges", "post_processor", "tokenizer_truncation",
         "tokenizer_padding", "gguf_file"),
        (lambda _: False, "absent: it belongs into tokenizer.json"),
    ),
}  # fmt: skip


def read_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> Any:
    """Read the tokenizer of a checkpoint.

    Raises
    ------
    RequestError
        If a file is damaged or a field has a wrong type, which are named; if the tokenizer cannot
        be used, has no tokens, or is random.
    """
    from transformers import AutoTokenizer

    folder = checkpoint.tokenizer_folder
    if checkpoint.gguf is None:
        check_tokenizer_files(folder)
    with _named(checkpoint, "read"), gguf_option(checkpoint) as gguf:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            **gguf,
        )
    with _named(checkpoint, "used"):
        size, ids = len(tokenizer), tokenizer("a", verbose=False)["input_ids"]
        tokenizer.decode([*ids, *tokenizer.all_special_ids])
        _ = tokenizer.special_tokens_map, tokenizer.pad_token_id, tokenizer.eos_token_id
    if not size:
        raise RequestError(f"the tokenizer of '{checkpoint.source}' has an empty vocabulary")
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if dropout := getattr(model, "dropout", None):
        raise RequestError(
            f"the tokenizer of '{checkpoint.source}' is random: tokenizer.json has "
            f"dropout {dropout:g}",
            "set it to null; it is for training",
        )
    return tokenizer


def check_tokenizer_files(folder: Path) -> None:
    """Check the small files of a tokenizer; RequestError names the file and its field."""
    for name in (CONFIG, *_TOKEN_MAPS):
        path = folder / name
        if not path.exists():
            continue
        content = read_json(path)
        fields = _FIELDS if name != "added_tokens.json" else {}
        for field, value in content.items():
            is_right, expected = fields.get(field, _guess(name, field))
            is_null = value is None and name != "added_tokens.json" and field not in _NOT_NULL
            if not is_null and not is_right(value):
                raise RequestError(
                    f"{path}: '{field}' is {_shown(value)}, expected {expected}",
                    "correct it, or copy the file of the original model",
                )


def _guess(name: str, field: str) -> tuple[Callable[[Any], bool], str]:
    if name == "added_tokens.json":
        return (lambda value: type(value) is int and 0 <= value < 1 << 32), "an id"
    # A token that transformers has no name for; other texts are not tokens.
    if field.endswith("_token"):
        return (lambda value: not isinstance(value, str) or value != ""), "a token"
    return (lambda _: True), ""


def _shown(value: Any) -> str:
    text = f"{value!r}" if not isinstance(value, int) or value < 10**_MOST_DIGITS else "a number"
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextlib.contextmanager
def _named(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Raise errors of transformers and tokenizers as those of the checkpoint."""
    try:
        yield
    except BaseException as error:
        # The tokenizers package has one of its own for what it did not foresee.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = first_line(error)
        if checkpoint.gguf is None:
            reason = _damage(checkpoint.tokenizer_folder / VOCABULARY) or reason
        raise RequestError(
            f"the tokenizer of '{checkpoint.source}' cannot be {what}: {reason}",
            f"{VOCABULARY} or {CONFIG} is damaged or of another version",
        ) from error


def _damage(path: Path) -> str:
    """Return why the tokenizers package cannot read ``tokenizer.json``; empty if it can."""
    from tokenizers import Tokenizer

    if not path.is_file():
        return ""
    try:
        tokens = read_json(path).get("added_tokens")
    except RequestError as error:
        return error.message
    if not isinstance(tokens, list) or not all(map(_is_token, tokens)):
        return f"{path}: 'added_tokens' is not a list of tokens"
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (the package raises nothing more specific)
        return f"{path} is damaged: {first_line(error)}"
    return ""
