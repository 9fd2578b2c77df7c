"""The study of `distviz generate`: continuations with ARM off and on."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from distviz.data import Corpus, Document, check_text
from distviz.errors import MeasurementError, RequestError, first_line
from distviz.hooks import STEPS, redistribute
from distviz.models import entry_device
from distviz.output import counted
from distviz.results import SCHEMA_VERSION
from distviz.settings import RunSettings

if TYPE_CHECKING:
    from distviz.models import LoadedModel
    from distviz.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are generated.

    Attributes
    ----------
    max_new_tokens
        Maximum number of generated tokens.
    samples
        Number of continuations per side.
    temperature, top_p
        Of sampling; greedy decoding (one continuation) if both are None.
    on
        Steps with ARM: ``prefill``, ``decode`` or ``both``.

    Raises
    ------
    RequestError
        If a value is out of range, or ``samples`` is above 1 for greedy decoding.
    """

    max_new_tokens: int = 64
    samples: int = 1
    temperature: float | None = None
    top_p: float | None = None
    on: str = "both"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                flag = {"samples": "num-samples"}.get(name, name.replace("_", "-"))
                raise RequestError(f"--{flag} is {getattr(self, name)}, it must be at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise RequestError(f"--temperature is {self.temperature}, it must be above 0")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RequestError(f"--top-p is {self.top_p}, it must be above 0 and at most 1")
        if self.on not in STEPS:
            raise RequestError(f"--on is '{self.on}'", f"allowed: {', '.join(STEPS)}")
        if self.samples > 1 and not self.is_sampled:
            raise RequestError(
                f"--num-samples {self.samples} would be the same text "
                f"{counted(self.samples, 'time')}",
                "add --sample, --temperature or --top-p",
            )

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature is not None or self.top_p is not None

    def options(self) -> dict[str, Any]:
        """Return the arguments of transformers' ``generate``."""
        chosen: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        chosen |= {"return_dict_in_generate": False, "max_time": None}  # a checkpoint may set them
        if self.is_sampled:
            drawn = {"do_sample": True, "num_return_sequences": self.samples, "top_k": 0}
            heat = 1.0 if self.temperature is None else self.temperature
            mass = 1.0 if self.top_p is None else self.top_p
            return chosen | drawn | {"temperature": heat, "top_p": mass}
        plain = dict.fromkeys(("temperature", "top_p", "top_k"))
        return chosen | {"do_sample": False, "num_beams": 1} | plain


@dataclass(frozen=True)
class Continuations:
    """The continuations of a prompt.

    Attributes
    ----------
    manifest
        Model, settings, decoding and prompt.
    before, after
        With ARM off and on; one text per sample.
    same
        For every sample, the number of equal tokens from the start.
    diversity
        Of both sides, see `diversity`.
    """

    manifest: dict[str, Any]
    before: list[str]
    after: list[str]
    same: list[int]
    diversity: dict[str, float | None]

    def summary(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return self.manifest | {
            "before": self.before,
            "after": self.after,
            "same_tokens": self.same,
            "diversity": self.diversity,
        }


def generate(
    opened: LoadedModel,
    prompt: str,
    settings: RunSettings,
    decoding: Decoding,
    progress: Progress,
    *,
    system: str = "",
) -> Continuations:
    """Generate continuations of a prompt with ARM off and on, with the same seed.

    Parameters
    ----------
    opened
        A causal model with its tokenizer.
    prompt, system
        The text; with ``settings.chat_template``, the messages of a chat.
    settings
        Those of ARM, ``arm_layers`` and ``seed``.
    decoding
        How tokens are generated.
    progress
        Receives the progress.

    Raises
    ------
    RequestError
        If the model has no language head, or no chat template although it is requested.
    MeasurementError
        If transformers cannot generate.
    """
    if not opened.has_head:
        raise RequestError(f"{opened.name} has no language head, so it cannot generate text")
    corpus = prompt_corpus(opened, prompt, system, settings)
    ids = corpus.windows[0].ids.tolist()
    sides = []
    for name, is_on in (("off", False), ("on", True)):
        progress.stage(f"generating with ARM {name}")
        progress.start(decoding.max_new_tokens)
        where: dict[str, Any] = {"sites": settings.at, "on": decoding.on}
        acting = (
            redistribute(opened.model, settings.arm(), settings.arm_layers, **where)
            if is_on
            else nullcontext()
        )
        # Every call of the model makes one token of each sample.
        with acting, opened.model.register_forward_hook(lambda *_: progress.advance(1)):
            sides.append(_write(opened, ids, decoding, settings.seed))
    before, after = sides
    return Continuations(
        _manifest(opened, prompt, system, settings, decoding, corpus),
        before=[_decode(opened.tokenizer, tokens) for tokens in before],
        after=[_decode(opened.tokenizer, tokens) for tokens in after],
        same=[_shared(*pair) for pair in zip(before, after, strict=True)],
        diversity={"before": diversity(before), "after": diversity(after)},
    )


def _manifest(
    opened: LoadedModel,
    prompt: str,
    system: str,
    settings: RunSettings,
    decoding: Decoding,
    corpus: Corpus,
) -> dict[str, Any]:
    details = {name: value for name, value in opened.details.items() if name != "warnings"}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "generation",
        "model": {"name": opened.name, **details},
        "settings": settings.as_dict(),
        "redistribution": settings.redistribution,
        "arm": settings.arm().described(),
        "decoding": {name: getattr(decoding, name) for name in Decoding.__dataclass_fields__},
        "prompt": prompt,
        "system": system,
        "prompt_tokens": corpus.tokens,
        "warnings": [*opened.details.get("warnings", []), *corpus.notes],
    }


def prompt_corpus(opened: LoadedModel, prompt: str, system: str, settings: RunSettings) -> Corpus:
    """Return the tokens of a prompt, in one window; the weights of the model are not needed.

    Raises
    ------
    RequestError
        As of `distviz.measure.corpus_of`; if the prompt is empty.
    """
    from distviz.measure import corpus_of

    for name, text in (("--prompt", prompt), ("--system", system)):
        check_text(text, name)
    if not (system + prompt).strip():
        raise RequestError("--prompt is empty, there is nothing to continue")
    document = Document("--prompt", text=system + prompt)
    if settings.chat_template:
        messages = [("system", system)] * bool(system) + [("user", prompt)]
        document = Document("--prompt", messages=tuple(messages))
    asked = replace(
        settings, max_length=sys.maxsize, max_tokens=None, filler=None, skip_special=False
    )
    return corpus_of([document], opened, asked)


def _write(opened: LoadedModel, ids: list[int], decoding: Decoding, seed: int) -> list[list[int]]:
    """Return the generated tokens, one list per sample, without the end-of-text token."""
    model: Any = opened.model
    tokenizer: Any = opened.tokenizer
    given = torch.tensor([ids], device=entry_device(model))
    ends = _end_tokens(model, tokenizer)
    padding = tokenizer.pad_token_id
    devices = [given.device] if given.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(seed)
        try:
            made = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                pad_token_id=padding if padding is not None else next(iter(ends), 0),
                **decoding.options(),
            )
        except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
            reason = first_line(error)
            raise MeasurementError(
                f"{opened.name} cannot generate: {reason}",
                "the config.json or generation_config.json of the checkpoint may ask for it",
            ) from error
    return [_until(row, ends) for row in made[:, len(ids) :].tolist()]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    own = model.generation_config.eos_token_id
    found = own if isinstance(own, list) else [own]
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of equal tokens from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    return next((place for place, (a, b) in pairs if a != b), shorter)


def diversity(samples: Sequence[Sequence[int]]) -> float | None:
    """Return the share of different 2-grams among all 2-grams of tokens, over all samples.

    ``distinct-2`` of Li et al. 2016 (arXiv 1510.03055, section 5), within samples; None without
    2-grams.
    """
    found = [pair for tokens in samples for pair in itertools.pairwise(tokens)]
    return len(set(found)) / len(found) if found else None
