"""The token ids of one document: its parts, the chat template and the filler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.data.documents import Document
from distviz.errors import RequestError

PARTS = ("start", "system", "question", "text", "filler")
"""Parts of a document; ``start`` is what the tokenizer or the chat template puts first."""
FILLER = PARTS.index("filler")
_COMMON_WORDS = ("apple", "house", "river", "green", "table", "paper", "music", "water", "stone")


@dataclass(frozen=True)
class Filler:
    """A sequence of filler tokens.

    Attributes
    ----------
    string
        Tokenized once and repeated ``count`` times.
    count, position, seed
        Number, place (start, between, end, random), and the seed of random choices.
    kind
        ``"repeat"``; ``"random"``: random tokens of the vocabulary without special ones, different
        in every document; ``"words"``: a common English word for each document, repeated.
    """

    string: str
    count: int
    position: str
    seed: int
    kind: str = "repeat"

    def tokens(self, tokenizer: Any, document: int) -> list[int]:
        """Return the filler ids of a document."""
        rng = np.random.default_rng([self.seed, document, 1])
        if self.kind == "random":
            special = set(tokenizer.all_special_ids)
            ids = [token for token in range(len(tokenizer)) if token not in special]
            return [int(token) for token in rng.choice(ids, size=self.count)]
        words = _encode(tokenizer, self.string)
        if self.kind == "words":
            words = _encode(tokenizer, f" {rng.choice(_COMMON_WORDS)}")
        return words * self.count


def prefix_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids that the tokenizer adds before a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return np.array(full[:start], dtype=np.int64)
    return np.empty(0, np.int64)


def _encode(tokenizer: Any, text: str) -> list[int]:
    # verbose=False: no warning about long texts, which become windows.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def document_ids(
    document: Document, tokenizer: Any, filler: Filler | None, chat_template: bool, number: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the token ids of a document and the part of each.

    The parts are tokenized separately, so own tokens do not depend on the filler.
    """
    if document.is_prompt:
        texts = {"system": document.system, "question": document.question}
        if chat_template:
            texts = _chat(document, tokenizer)
    else:
        texts = {"text": document.text}
    pieces = {part: _encode(tokenizer, text) for part, text in texts.items()}
    ids = np.array([token for piece in pieces.values() for token in piece], np.int64)
    sizes = {part: len(piece) for part, piece in pieces.items()}
    parts = np.repeat([PARTS.index(part) for part in sizes], list(sizes.values())).astype(np.int8)
    if filler is None:
        return ids, parts
    start = sizes.get("start", 0)
    place = {"start": start, "between": start + sizes.get("system", 0), "end": len(ids)}
    at = place.get(filler.position, -1)
    if filler.position == "random":
        at = int(np.random.default_rng([filler.seed, number]).integers(len(ids) + 1))
    run = filler.tokens(tokenizer, number)
    return np.insert(ids, at, run), np.insert(parts, [at] * len(run), FILLER)


_MARKS = ("\ue000distviz\ue000", "\ue001distviz\ue001")


def _chat(document: Document, tokenizer: Any) -> dict[str, str]:
    """Render the chat template and split it before the system prompt and before the question."""
    if not getattr(tokenizer, "chat_template", None):
        raise RequestError("--chat-template: this tokenizer has no chat template", "leave it out")
    before_system, before_question = _MARKS
    messages = [{"role": "user", "content": before_question + document.question}]
    if document.system:
        messages.insert(0, {"role": "system", "content": before_system + document.system})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    head, _, question = text.partition(before_question)
    start, _, system = head.partition(before_system)
    return {"start": start, "system": system, "question": question}
