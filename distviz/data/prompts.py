"""The token ids of one document: its parts, the chat template and the filler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.data.chats import RenderedChat
from distviz.data.documents import Document
from distviz.data.rows import check_text
from distviz.errors import RequestError, first_line

PARTS = ("start", "system", "question", "text", "filler")
"""Parts of a document; ``start`` is what the tokenizer or the chat template puts first."""
FILLER = PARTS.index("filler")
ROLES = ("system", "user", "assistant", "special", "filler", "rest")
"""Roles of tokens: that of the message whose content they are, and those of the tokenizer's special
tokens and of a filler; ``rest`` is all other text, that of the chat template included."""
_ROLE_NUMBERS = {role: ROLES.index(role) for role in ("system", "user", "assistant")}
_REST = ROLES.index("rest")
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
            special = special_ids(tokenizer)
            ids = [token for token in range(len(tokenizer)) if token not in special]
            return [int(token) for token in rng.choice(ids, size=self.count)]
        words = encode(tokenizer, self.string)
        if self.kind == "words":
            words = encode(tokenizer, f" {rng.choice(_COMMON_WORDS)}")
        return words * self.count


@dataclass(frozen=True)
class TokenizedDocument:
    """The ids of a document without what the tokenizer adds, and the part and role of each.

    ``has_all_roles`` is False where the place of a message in a rendered chat is unknown; its
    tokens have the role ``rest``. ``repeats_start`` says that its text begins with tokens that the
    tokenizer adds as well; they are not in ``ids``, since every window begins with them.
    """

    ids: NDArray[np.int64]
    parts: NDArray[np.int8]
    roles: NDArray[np.int8]
    repeats_start: bool
    has_all_roles: bool = True


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
    """Return the token ids of a document, with the part and the role of each.

    Own tokens do not depend on the filler: without a chat template the parts are tokenized
    separately; a rendered chat is tokenized as a whole, and the filler put between its tokens.
    ``prefix`` is what the tokenizer adds; ``number`` is that of the document.
    """
    if chat is None:
        pieces = [(part, role, encode(tokenizer, text)) for part, role, text in document.pieces]
        sizes = [len(piece) for _, _, piece in pieces]
        ids = np.array([token for _, _, piece in pieces for token in piece], np.int64)
        numbers = [(PARTS.index(p), _ROLE_NUMBERS.get(role, _REST)) for p, role, _ in pieces]
        parts, roles = np.repeat(np.array(numbers, np.int8), sizes, axis=0).T
        has_all_roles = True
    else:
        ids, parts = _chat_parts(chat, tokenizer)
        roles, has_all_roles = _chat_roles(chat, tokenizer, ids)
    repeated = shared_start(ids, prefix)
    ids, parts, roles = ids[repeated:], parts[repeated:], roles[repeated:]
    if filler is not None:
        at = _filler_place(filler, parts, number)
        run = filler.tokens(tokenizer, number)
        ids = np.insert(ids, at, run)
        parts, roles = (
            np.insert(one, [at] * len(run), names.index("filler"))
            for one, names in ((parts, PARTS), (roles, ROLES))
        )
    return TokenizedDocument(ids, parts, roles, bool(repeated), has_all_roles)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the special tokens of a tokenizer, also those that have no name of their own."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = {number for number, token in added.items() if getattr(token, "special", False)}
    return frozenset(map(int, marked.union(getattr(tokenizer, "all_special_ids", ()))))


def _filler_place(filler: Filler, parts: NDArray[np.int8], number: int) -> int:
    """Return the number of own tokens of a document before the filler."""
    if filler.position == "random":
        return int(np.random.default_rng([filler.seed, number]).integers(len(parts) + 1))
    start = int((parts == PARTS.index("start")).sum())
    between = start + int((parts == PARTS.index("system")).sum())
    return {"start": start, "between": between, "end": len(parts)}[filler.position]


def shared_start(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Return the number of equal ids from the start."""
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if different.size else size


def _chat_parts(chat: RenderedChat, tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Return the ids of the whole text of a rendered chat, and the part of each.

    A token over a boundary belongs to the part after it.
    """
    whole = np.array(encode(tokenizer, chat.text), np.int64)
    parts = np.full(len(whole), PARTS.index("start"), np.int8)
    start = 0
    for name, place in (("system", chat.system), ("question", chat.question)):
        if place is not None:
            before = np.array(encode(tokenizer, chat.text[:place]), np.int64)
            start = max(start, shared_start(whole, before))
            parts[start:] = PARTS.index(name)
    return whole, parts


def _chat_roles(
    chat: RenderedChat, tokenizer: Any, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int8], bool]:
    """Return the role of each token of a rendered chat, and whether that of each message is known.

    A token with characters of a content has its role, also if others are the template's; of two
    contents, that of the first.
    """
    roles = np.full(len(ids), _REST, np.int8)
    if not getattr(tokenizer, "is_fast", False):  # others do not tell places
        return roles, False
    options = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": True}
    places = np.array(tokenizer(chat.text, **options)["offset_mapping"], np.int64)
    first, last = places.reshape(-1, 2).T
    first = np.minimum(first, last - 1)  # some leave out the spaces of a token of spaces
    for role, start, end in reversed(chat.spans):
        roles[(first < end) & (last > start)] = _ROLE_NUMBERS.get(role, _REST)
    return roles, not chat.unknown


def with_special(
    roles: NDArray[np.int8], ids: NDArray[np.int64], special: frozenset[int]
) -> NDArray[np.int8]:
    """Return the roles, special tokens marked; those of a filler keep its role."""
    marked = np.isin(ids, list(special)) & (roles != ROLES.index("filler"))
    return np.where(marked, ROLES.index("special"), roles).astype(np.int8)
