"""Check the fields of config.json and generation_config.json before anything is built from them.

transformers checks the types of many fields. The rules here are for what it accepts although the
model would compute nonsense, compute without end, or return something else than it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distviz.errors import RequestError
from distviz.output import counted

_MOST_MODULES = 1 << 20
"""Layers times experts of each layer: more modules take minutes to build."""
_MOST_FIELDS = 2000
_MOST = (
    ("layer layers *_layer *_layers", 4096),
    ("*experts *_heads n_head", 1 << 16),
    ("*_size *_dim d_model d_ff d_kv n_embd n_inner dim", 1 << 24),
    ("num_labels", _MOST_MODULES),
)
"""Names of sizes and the largest number that is built."""

_SWITCH, _POSITIVE, _COUNT = "true or false", "a number above 0", "a whole number from 0"

Rule = tuple[str, Callable[[Any], bool], str]
"""Names of fields as shell patterns, the test of a value (null always passes), what is expected."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and 0 <= value < 1 << 63


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_not_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0


def is_a(*kinds: type) -> Callable[[Any], bool]:
    """Return a check whether a value is of one of these types."""
    return lambda value: isinstance(value, kinds)


def is_list_of(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check whether a value is a list, and each of its values passes ``one``."""
    return lambda value: isinstance(value, list) and all(map(one, value))


def _is_token(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, list) and all(map(_is_whole, value)))


_TOKEN: Rule = ("*_token_id", _is_token, "a token id or a list of them")
_SHARE = "a number between 0 and 1"
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_CONFIG: tuple[Rule, ...] = (
    ("model_type tokenizer_class hidden_act", is_a(str), "a string"),
    ("architectures", is_list_of(is_a(str)), "a list of strings"),
    ("auto_map id2label label2id quantization_config text_config", is_a(dict), "an object"),
    ("rope_scaling rope_parameters", is_a(dict), "an object"),
    ("return_dict output_hidden_states output_attentions use_cache", is_a(bool), _SWITCH),
    ("is_decoder is_encoder_decoder add_cross_attention", is_a(bool), _SWITCH),
    ("tie_word_embeddings tie_encoder_decoder", is_a(bool), _SWITCH),
    ("dtype torch_dtype", lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    ("eps *_eps epsilon *_epsilon", _is_share, _SHARE),
    ("rope_theta global_rope_theta local_rope_theta rope_local_base_freq", _is_positive, _POSITIVE),
    ("num_nextn_predict_layers num_labels n_layer n_layers", _is_count, _COUNT),
    ("num_*layers", lambda value: _is_count(value) or isinstance(value, dict | list), _COUNT),
    ("sliding_window", lambda value: not _is_whole(value) or value >= 0, _COUNT),
    ("quant_method", is_a(str), "a string"),
    ("*attn_implementation *experts_implementation", is_a(str, dict), "a name"),
    ("transformers_weights", lambda _: False, "no such field: weights are in model.safetensors"),
    _TOKEN,
)
_ROPE: tuple[Rule, ...] = (
    ("type rope_type", is_a(str), "a string"),
    ("short_factor long_factor", is_list_of(_is_positive), "a list of numbers above 0"),
    ("*factor beta_*", _is_positive, _POSITIVE),
)
_GENERATION: tuple[Rule, ...] = (
    _TOKEN,
    ("do_sample use_cache renormalize_logits remove_invalid_values", is_a(bool), _SWITCH),
    ("low_memory token_healing return_dict_in_generate", is_a(bool), _SWITCH),
    ("output_scores output_logits output_attentions output_hidden_states", is_a(bool), _SWITCH),
    ("max_length min_length max_new_tokens min_new_tokens top_k", _is_count, _COUNT),
    ("num_beams num_beam_groups num_return_sequences", _is_count, _COUNT),
    ("*no_repeat_ngram_size prompt_lookup_num_tokens num_assistant_tokens", _is_count, _COUNT),
    ("repetition_penalty encoder_repetition_penalty", _is_positive, _POSITIVE),
    ("top_p min_p typical_p epsilon_cutoff eta_cutoff", _is_share, _SHARE),
    ("temperature penalty_alpha guidance_scale max_time", _is_not_negative, "a number from 0"),
    ("suppress_tokens begin_suppress_tokens", is_list_of(_is_whole), "a list of token ids"),
    ("bad_words_ids", is_list_of(is_list_of(_is_whole)), "lists of token ids"),
    ("watermarking_config compile_config", is_a(dict), "an object"),
    ("cache_implementation", is_a(str), "a string"),
    ("prefill_chunk_size", _is_positive, _POSITIVE),
    ("length_penalty diversity_penalty", _is_number, "a number"),
)


def check_config(content: Mapping[str, Any], path: Path) -> None:
    """Check the content of a ``config.json``.

    Raises
    ------
    RequestError
        If a field has a wrong type, is out of range, or asks for more layers than can be built.
        File and field are named.
    """
    if len(content) > _MOST_FIELDS:
        raise RequestError(
            f"{path}: {counted(len(content), 'field')}, at most {_MOST_FIELDS:,} are expected"
        )
    for where, fields in _objects(content):
        in_rope = any(part.startswith("rope_") for part in where.split("."))
        _check(fields, (*_ROPE, *_CONFIG) if in_rope else _CONFIG, path, where)
        _check_sizes(fields, path, where)
    _check(content, _GENERATION, path, "")


def check_generation(content: Mapping[str, Any], path: Path) -> None:
    """Check the content of a ``generation_config.json``; RequestError as of `check_config`."""
    _check(content, _GENERATION, path, "")


def refuse(path: Path, field: str, value: Any, expected: str) -> RequestError:
    """Return the error of a field."""
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:56]} …"
    return RequestError(f"{path}: {field} is {shown}, expected {expected}")


def _objects(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every object with its path: the configuration, and those in it."""
    waiting = [("", content)]
    while waiting:
        where, fields = waiting.pop()
        yield where, fields
        waiting += [(f"{where}{n}.", v) for n, v in fields.items() if isinstance(v, dict)]


def _check(fields: Mapping[str, Any], rules: tuple[Rule, ...], path: Path, where: str) -> None:
    for name, value in fields.items():
        if value is None:
            continue
        for names, passes, expected in rules:
            if _matches(name, names):
                if not passes(value):
                    raise refuse(path, f"{where}{name}", value, expected)
                break


def _check_sizes(fields: Mapping[str, Any], path: Path, where: str) -> None:
    """Refuse sizes that would take minutes to build, or that no memory holds."""
    sizes = {name: value for name, value in fields.items() if _is_whole(value)}
    for names, most in _MOST:
        for name, value in sizes.items():
            if value > most and _matches(name, names):
                raise refuse(path, f"{where}{name}", value, f"at most {most:,}")
    layers, experts = (
        max((value for name, value in sizes.items() if _matches(name, names)), default=1)
        for names in ("num_*layers n_layer n_layers", "*experts")
    )
    if layers * experts > _MOST_MODULES:
        raise RequestError(
            f"{path}: {counted(layers, 'layer')} of {counted(experts, 'expert')} are too many",
            f"at most {_MOST_MODULES:,} experts in all can be built",
        )


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())
