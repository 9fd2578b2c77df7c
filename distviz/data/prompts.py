"""The token ids of one document: its parts, the chat template and the filler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.data.chats import RenderedChat
from distviz.data.documents import Document, check_text
from distviz.errors import RequestError, first_line

PARTS = ("start", "system", "question", "text", "filler")
"""Parts of a document; ``start`` is what the tokenizer or the chat template puts first."""
FILLER = PARTS.index("filler")
_COMMON_WORDS = ("apple", "house", "river", "green", "table", "paper", "music", "water", "stone")
_PROBES = ("a", "A", "0", "the", ".", " ")


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

    Raises
    ------
    RequestError
        If ``string`` has a lone surrogate.
    """

    string: str
    count: int
    position: str
    seed: int
    kind: str = "repeat"

    def __post_init__(self) -> None:
        check_text(self.string, "--filler")

    def tokens(self, tokenizer: Any, document: int) -> list[int]:
        """Return the filler ids of a document."""
        rng = np.random.default_rng([self.seed, document, 1])
        if self.kind == "random":
            special = set(tokenizer.all_special_ids)
            ids = [token for token in range(len(tokenizer)) if token not in special]
            return [int(token) for token in rng.choice(ids, size=self.count)]
        words = encode(tokenizer, self.string)
        if self.kind == "words":
            words = encode(tokenizer, f" {rng.choice(_COMMON_WORDS)}")
        return words * self.count


@dataclass(frozen=True)
class TokenizedDocument:
    """The ids of a document without what the tokenizer adds, and the part of each.

    ``repeats_start`` says that its text begins with tokens that the tokenizer adds as well; they
    are not in ``ids``, since every window begins with them.
    """

    ids: NDArray[np.int64]
    parts: NDArray[np.int8]
    repeats_start: bool


def prefix_ids(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids that the tokenizer adds before a text."""
    for probe in _PROBES:
        plain = encode(tokenizer, probe)
        full = encode(tokenizer, probe, add_special_tokens=True)
        for start in range(len(full) - len(plain) + 1 if plain else 0):
            if full[start : start + len(plain)] == plain:
                return np.array(full[:start], dtype=np.int64)
    return np.empty(0, np.int64)


def encode(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the ids of a text; RequestError if the tokenizer fails with it."""
    try:
        # verbose=False: no warning about long texts, which become windows.
        found = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
        return list(found["input_ids"])
    except Exception as error:  # the tokenizers package raises nothing more specific
        raise RequestError(f"the tokenizer fails: {first_line(error)}") from error


def document_ids(
    document: Document,
    tokenizer: Any,
    prefix: NDArray[np.int64],
    filler: Filler | None,
    chat: RenderedChat | None,
    number: int,
) -> TokenizedDocument:
    """Return the token ids of a document and the part of each.

    Own tokens do not depend on the filler: without a chat template the parts are tokenized
    separately; a rendered chat is tokenized as a whole, and the filler put between its tokens.
    ``prefix`` is what the tokenizer adds; ``number`` is that of the document.
    """
    if chat is None:
        pieces = [(part, encode(tokenizer, text)) for part, text in document.pieces]
    else:
        pieces = _chat_pieces(chat, tokenizer)
    ids = np.array([token for _, piece in pieces for token in piece], np.int64)
    parts = np.repeat(
        [PARTS.index(part) for part, _ in pieces], [len(piece) for _, piece in pieces]
    )
    repeated = shared_start(ids, prefix)
    ids, parts = ids[repeated:], parts[repeated:].astype(np.int8)
    found = TokenizedDocument(ids, parts, bool(repeated))
    if filler is None:
        return found
    start = int((parts == PARTS.index("start")).sum())
    between = start + int((parts == PARTS.index("system")).sum())
    at = {"start": start, "between": between, "end": len(ids)}.get(filler.position, -1)
    if filler.position == "random":
        at = int(np.random.default_rng([filler.seed, number]).integers(len(ids) + 1))
    run = filler.tokens(tokenizer, number)
    filled = np.insert(ids, at, run), np.insert(parts, [at] * len(run), FILLER)
    return TokenizedDocument(*filled, found.repeats_start)


def shared_start(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Return the number of equal ids from the start."""
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if different.size else size


def _chat_pieces(chat: RenderedChat, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """Return the parts of a rendered chat with their ids, which are those of the whole text.

    A token over a boundary belongs to the part after it.
    """
    whole = np.array(encode(tokenizer, chat.text), np.int64)
    places = [("system", chat.system), ("question", chat.question)]
    starts, names = [0], ["start"]
    for name, place in places:
        if place is not None:
            before = np.array(encode(tokenizer, chat.text[:place]), np.int64)
            starts.append(max(starts[-1], shared_start(whole, before)))
            names.append(name)
    ends = [*starts[1:], len(whole)]
    return [
        (name, whole[start:end].tolist())
        for name, start, end in zip(names, starts, ends, strict=True)
    ]
