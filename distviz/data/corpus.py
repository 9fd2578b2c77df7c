"""Batches of tokens from documents: windows, masks, token classes; random input for layers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.data.chats import RenderedChat, render_chats, template_of
from distviz.data.documents import Document, Documents, fingerprint
from distviz.data.prompts import (
    FILLER,
    PARTS,
    ROLES,
    Filler,
    TokenizedDocument,
    document_ids,
    prefix_ids,
    special_ids,
    with_special,
)
from distviz.errors import RequestError
from distviz.output import counted

OTHER = 3
"""The class of all other tokens."""
_OPERATORS = re.compile(r"^[-+*/=<>^%&|~!×÷·∙±∓≤≥≠≈√∑∏∫−∗⋅]+$")
_DIGITS = re.compile(r"^[0-9]+([.,][0-9]+)*$")
_CONJUNCTIONS = re.compile(
    r"^(and|or|but|nor|so|yet|for|because|although|though|since|unless|while|whereas|if|then|thus"
    r"|hence|therefore|however|when|whenever|until|before|after|once|than|whether|as|that)$"
)


@dataclass(frozen=True)
class Window:
    """A piece of one document: one sequence of ARM.

    ``parts`` and ``roles`` (int8, indices into `PARTS` and `ROLES`) are the part of the prompt that
    each token belongs to, and its role.
    """

    document: int
    window: int
    ids: NDArray[np.int64]
    is_last: bool
    parts: NDArray[np.int8]
    roles: NDArray[np.int8]
    hidden: NDArray[np.float32] | None = None

    @property
    def own(self) -> NDArray[np.bool_]:
        """False for tokens of a filler."""
        return np.not_equal(self.parts, FILLER)


@dataclass(frozen=True)
class Corpus:
    """Windows in document order.

    Attributes
    ----------
    windows
        In document order.
    documents
        The documents of the windows (empty for random input).
    classes
        Token id -> index of its token class; larger ids have class "other".
    special
        Ids of special tokens.
    sha256
        Of the text (or of the seed and shape of random input).
    truncated
        Whether ``max_tokens`` truncated the text.
    notes
        Warnings about the text: what of it is left out, or read in another way.
    """

    windows: list[Window]
    documents: list[Document]
    classes: NDArray[np.int64]
    special: frozenset[int]
    sha256: str
    truncated: bool = False
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens in all windows."""
        return sum(window.ids.size for window in self.windows)


@dataclass(frozen=True)
class Batch:
    """Windows padded on the right; arrays of shape (batch, tokens) or (batch,)."""

    ids: NDArray[np.int64]
    hidden: NDArray[np.float32] | None
    valid: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    classes: NDArray[np.int64]
    roles: NDArray[np.int64]
    index: NDArray[np.int64]
    documents: NDArray[np.int64]
    windows: NDArray[np.int64]
    whole: frozenset[int]
    finished: frozenset[int]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int(self.valid.sum())


def tokenize(
    documents: Sequence[Document],
    tokenizer: Any,
    *,
    max_length: int = 512,
    max_tokens: int | None = None,
    filler: Filler | None = None,
    chat_template: bool = False,
) -> Corpus:
    """Tokenize documents and split them into windows of at most ``max_length`` tokens.

    Every window starts with the tokens that the tokenizer adds at the start of a text, once; they
    count in its length. System prompt, filler and question are tokenized separately, a rendered
    chat as a whole.

    Raises
    ------
    RequestError
        If ``max_length`` is too small, a chat template is missing or fails, or no token is left.
    """
    prefix = prefix_ids(tokenizer)
    size = max_length - len(prefix)
    if size < 1:
        raise RequestError(
            f"--max-length {max_length} is too small: the tokenizer adds "
            f"{counted(len(prefix), 'token')}"
        )
    chats = _rendered(documents, tokenizer) if chat_template else {}
    windows, special = list[Window](), special_ids(tokenizer)
    notes = _Notes(documents, tokenizer.decode(prefix) if prefix.size else "")
    notes.is_dated = bool(chats) and "strftime_now" in template_of(tokenizer)
    left = sys.maxsize if max_tokens is None else max_tokens
    truncated = False
    for number, document in enumerate(documents):
        chat = chats.get(number)
        with _naming(document):
            whole = document_ids(document, tokenizer, prefix, filler, chat, number)
        notes.add(document, whole, chat)
        pieces = _split(whole, prefix, size)
        kept = _take([piece[0] for piece in pieces], left)
        truncated |= sum(map(len, kept)) < sum(len(piece[0]) for piece in pieces)
        left -= sum(map(len, kept))
        for index, (ids, (_, *more)) in enumerate(zip(kept, pieces, strict=False)):
            parts, roles = (one[: len(ids)] for one in more)
            roles = with_special(roles, ids, special)
            windows.append(Window(number, index, ids, index == len(kept) - 1, parts, roles))
        if left <= 0:
            truncated |= number < len(documents) - 1
            break
    if not windows:
        raise RequestError("the text has no token to measure")
    return Corpus(
        windows,
        list(documents),
        _classes(windows, tokenizer),
        special,
        fingerprint(documents),
        truncated,
        tuple(notes.lines(chat_template=chat_template)),
    )


def _rendered(documents: Sequence[Document], tokenizer: Any) -> dict[int, RenderedChat]:
    numbers = [number for number, document in enumerate(documents) if document.is_prompt]
    if not numbers:
        return {}
    rendered = render_chats([documents[number] for number in numbers], tokenizer)
    return dict(zip(numbers, rendered, strict=True))


@contextlib.contextmanager
def _naming(document: Document) -> Iterator[None]:
    """Add the document's name to errors."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"document '{document.id}': {error.message}", error.hint) from error


def _split(
    document: TokenizedDocument, prefix: NDArray[np.int64], size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int8]]]:
    """Return ids, parts and roles of each window; a prefix at a cut is not repeated."""
    found: list[tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int8]]] = []
    start = 0
    ids, parts, roles, width = document.ids, document.parts, document.roles, len(prefix)
    start_roles = np.full(width, ROLES.index("rest"), np.int8)
    bare = len(ids) == 0 and document.repeats_start
    while start < len(ids) or (bare and not found):
        follows = ids[start : start + width]
        own = FILLER not in parts[start : start + width]
        if width and found and own and np.array_equal(follows, prefix):
            start += width
        end = start + size
        inside = np.concatenate([np.zeros(width, np.int8), parts[start:end]])
        of_roles = np.concatenate([start_roles, roles[start:end]])
        found.append((np.concatenate([prefix, ids[start:end]]), inside, of_roles))
        start = end
    return found


def _classes(windows: Sequence[Window], tokenizer: Any) -> NDArray[np.int64]:
    highest = max(int(window.ids.max()) for window in windows)
    used = sorted({int(token) for window in windows for token in np.unique(window.ids)})
    classes = np.full(highest + 1, OTHER, np.int64)
    classes[used] = classify_tokens([tokenizer.decode([token]) for token in used])
    return classes


@dataclass
class _Notes:
    """Collects what to say about the documents; each is said once."""

    documents: Sequence[Document]
    start: str
    repeated: list[str] = field(default_factory=list)
    without_tokens: list[str] = field(default_factory=list)
    is_dated: bool = False
    plain: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    without_system: list[str] = field(default_factory=list)
    without_question: list[str] = field(default_factory=list)
    without_roles: list[str] = field(default_factory=list)

    def add(self, document: Document, found: TokenizedDocument, chat: RenderedChat | None) -> None:
        name = document.id
        if not found.has_all_roles:
            self.without_roles.append(name)
        if found.repeats_start and chat is None:
            self.repeated.append(name)
        if not found.ids.size and not found.repeats_start:
            self.without_tokens.append(name)
        if chat is None:
            (self.joined if document.messages else self.plain).append(name)
        elif chat.system == len(chat.text):
            self.without_system.append(name)
        elif chat.question == len(chat.text):
            self.without_question.append(name)

    def lines(self, *, chat_template: bool) -> Iterator[str]:
        yield from self.documents.notes if isinstance(self.documents, Documents) else ()
        if self.is_dated:
            yield "the chat template writes the date: another day has other tokens"
        unused = self.plain if chat_template else []
        kinds = {
            f"the text begins with {self.start}, which the tokenizer adds: it is there once, not "
            "twice": self.repeated,
            "the tokenizer makes no token of the text": self.without_tokens,
            "the text is no prompt, --chat-template does not change it": unused,
            "the messages are joined without their roles, --chat-template adds them": self.joined,
            "the chat template leaves the system prompt out": self.without_system,
            "the chat template leaves the question out": self.without_question,
            "the place of a message in the rendered chat is unknown, the role of its tokens is "
            "rest": self.without_roles,
        }
        for what, names in kinds.items():
            yield from note_on_documents(what, names, len(self.documents))


def classify_tokens(tokens: Iterable[str]) -> list[int]:
    """Return the class of each decoded token: 0 digits, 1 operators, 2 conjunctions, 3 other."""
    found = []
    for token in tokens:
        word = token.strip()
        if _DIGITS.match(word):
            found.append(0)
        elif _OPERATORS.match(word):
            found.append(1)
        else:
            found.append(2 if _CONJUNCTIONS.match(word.lower()) else OTHER)
    return found


def note_on_documents(what: str, names: Sequence[str], total: int) -> list[str]:
    """Return a note that names some of all documents; none without names."""
    return (
        [f"{what} ({len(names)} of {counted(total, 'document')}, first '{names[0]}')"]
        if names
        else []
    )


def _take(pieces: list[NDArray[np.int64]], left: int) -> list[NDArray[np.int64]]:
    kept: list[NDArray[np.int64]] = []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(kept[-1])
    return kept


def random_corpus(
    documents: int, tokens: int, *, seed: int, vocabulary: int, width: int | None, scale: float
) -> Corpus:
    """Return seeded random input for built layers.

    Parameters
    ----------
    documents, tokens
        Number of sequences, and tokens of each.
    vocabulary
        Token ids are uniform below this.
    width
        Hidden states of this width, normal with standard deviation ``scale``, instead of ids.
    """
    windows = []
    for number in range(documents):
        rng = np.random.default_rng([seed, number])
        ids = rng.integers(vocabulary, size=tokens)
        hidden = None
        if width is not None:
            hidden = (rng.standard_normal((tokens, width)) * scale).astype(np.float32)
        parts = np.full(tokens, PARTS.index("text"), np.int8)
        roles = np.full(tokens, ROLES.index("rest"), np.int8)
        windows.append(
            Window(number, 0, ids, is_last=True, parts=parts, roles=roles, hidden=hidden)
        )
    note = json.dumps([documents, tokens, seed, vocabulary, width, scale]).encode()
    classes = np.full(vocabulary, OTHER, np.int64)
    return Corpus(windows, [], classes, frozenset(), hashlib.sha256(note).hexdigest())


def make_batches(
    corpus: Corpus, batch_size: int, *, skip_special: bool = False, own_only: bool = False
) -> list[Batch]:
    """Group windows in document order, ``batch_size`` at a time, padded on the right.

    ``skip_special`` and ``own_only`` exclude special tokens and fillers from the counts.
    """
    groups = [
        corpus.windows[start : start + batch_size]
        for start in range(0, len(corpus.windows), batch_size)
    ]
    return [_batch(corpus, group, skip_special, own_only) for group in groups]


def _batch(corpus: Corpus, group: list[Window], skip_special: bool, own_only: bool) -> Batch:
    shape = (len(group), max(window.ids.size for window in group))
    ids, valid, roles = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, np.int64)
    hidden = None
    if group[0].hidden is not None:
        hidden = np.zeros((*shape, group[0].hidden.shape[1]), np.float32)
    for row, window in enumerate(group):
        ids[row, : window.ids.size] = window.ids
        valid[row, : window.ids.size] = True
        roles[row, : window.ids.size] = window.roles
        if hidden is not None and window.hidden is not None:
            hidden[row, : window.ids.size] = window.hidden
    counted = valid.copy()
    if own_only:
        for row, window in enumerate(group):
            counted[row, : window.ids.size] &= window.own
    if skip_special and hidden is None:
        counted &= ~np.isin(ids, list(corpus.special))
    windows = np.array([window.window for window in group])
    documents = np.array([window.document for window in group])
    finished = frozenset(window.document for window in group if window.is_last)
    begun = frozenset(window.document for window in group if window.window == 0)
    return Batch(
        ids,
        hidden,
        valid,
        counted,
        corpus.classes[ids] if hidden is None else np.full(shape, OTHER),
        roles,
        (windows[:, None] << 32) + np.arange(shape[1]),
        documents,
        windows,
        finished & begun,
        finished,
    )
