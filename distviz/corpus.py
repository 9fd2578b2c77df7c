"""From text to batches of tokens: documents, windows, fillers, token classes, masks."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distviz.errors import RequestError

__all__ = [
    "PARTS",
    "Batch",
    "Corpus",
    "Document",
    "Filler",
    "classify_tokens",
    "make_batches",
    "random_corpus",
    "read_documents",
    "tokenize",
]

_OPERATORS = re.compile(r"^[-+*/=<>^%&|~!×÷·∙±∓≤≥≠≈√∑∏∫−∗⋅]+$")
_DIGITS = re.compile(r"^[0-9]+([.,][0-9]+)*$")
_CONJUNCTIONS = re.compile(
    r"^(and|or|but|nor|so|yet|for|because|although|though|since|unless|while|whereas|if|then|thus"
    r"|hence|therefore|however|when|whenever|until|before|after|once|than|whether|as|that)$"
)
_CLASS_OTHER = 3
PARTS = ("start", "system", "question", "text", "filler")
"""What a token belongs to; ``start`` is what the tokenizer or the chat template puts first."""
_TEXT, _FILLER = PARTS.index("text"), PARTS.index("filler")
_COMMON_WORDS = ("apple", "house", "river", "green", "table", "paper", "music", "water", "stone")


@dataclass(frozen=True)
class Document:
    """One document: plain ``text``, or a prompt of ``system`` and ``question``."""

    id: str
    text: str = ""
    system: str = ""
    question: str = ""

    @property
    def is_prompt(self) -> bool:
        """Whether it is a prompt."""
        return bool(self.question)

    def as_dict(self) -> dict[str, str]:
        """Return what ``documents.jsonl`` holds."""
        if self.is_prompt:
            return {"id": self.id, "system": self.system, "question": self.question}
        return {"id": self.id, "text": self.text}


@dataclass(frozen=True)
class Filler:
    """A run of meaningless tokens.

    Attributes
    ----------
    string
        Tokenized once and repeated ``count`` times.
    count, position, seed
        How often, where (start, between, end, random), and the seed of what is random.
    kind
        ``"repeat"``, or ``"random"``: ``count`` random tokens of the vocabulary, no special ones,
        others in every document; ``"words"``: one common English word for each document, repeated.
    """

    string: str
    count: int
    position: str
    seed: int
    kind: str = "repeat"

    def tokens(self, tokenizer: Any, document: int) -> list[int]:
        """Return the ids of the run that a document gets."""
        rng = np.random.default_rng([self.seed, document, 1])
        if self.kind == "random":
            special = set(tokenizer.all_special_ids)
            ids = [token for token in range(len(tokenizer)) if token not in special]
            return [int(token) for token in rng.choice(ids, size=self.count)]
        words = _encode(tokenizer, self.string)
        if self.kind == "words":
            words = _encode(tokenizer, f" {rng.choice(_COMMON_WORDS)}")
        return words * self.count


@dataclass(frozen=True)
class Window:
    """A piece of one document, the "sequence" of ARM.

    ``parts`` (int8, index into `PARTS`) says what each token belongs to.
    """

    document: int
    window: int
    ids: NDArray[np.int64]
    is_last: bool
    parts: NDArray[np.int8]
    hidden: NDArray[np.float32] | None = None

    @property
    def own(self) -> NDArray[np.bool_]:
        """False where a token belongs to a filler."""
        return np.not_equal(self.parts, _FILLER)


@dataclass(frozen=True)
class Corpus:
    """Windows in document order, and what the manifest says of them.

    Attributes
    ----------
    windows
        In document order.
    documents
        The documents they were cut from (empty for random input).
    classes
        Token id -> index of its token class; ids beyond are class "other".
    special
        Ids of special tokens.
    sha256
        Of the text (or of the seed and shape of random input).
    truncated
        Whether ``max_tokens`` cut the text short.
    """

    windows: list[Window]
    documents: list[Document]
    classes: NDArray[np.int64]
    special: frozenset[int]
    sha256: str
    truncated: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens in all windows."""
        return sum(window.ids.size for window in self.windows)


@dataclass(frozen=True)
class Batch:
    """Windows side by side, padded on the right; arrays of shape (batch, tokens) or (batch,)."""

    ids: NDArray[np.int64]
    hidden: NDArray[np.float32] | None
    valid: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    classes: NDArray[np.int64]
    index: NDArray[np.int64]
    documents: NDArray[np.int64]
    windows: NDArray[np.int64]
    whole: frozenset[int]
    finished: frozenset[int]

    @property
    def tokens(self) -> int:
        """Number of tokens, padding left out."""
        return int(self.valid.sum())


def read_documents(sources: Sequence[str | Path | dict[str, str]]) -> list[Document]:
    """Read documents.

    Parameters
    ----------
    sources
        A ``Path`` is a file: ``.jsonl`` holds a document a line (``text``, or ``system`` and
        ``question``), ``-`` is standard input, anything else is one document. A ``str`` is the
        text of a document itself, a ``dict`` is as a line of JSONL. Empty: the embedded ones.

    Raises
    ------
    RequestError
        If a file is missing, no text, empty, or a line of it is malformed (which).
    """
    if not sources:
        embedded = resources.files("distviz") / "demo" / "documents.jsonl"
        return list(_from_lines(embedded.read_text(encoding="utf-8"), "documents.jsonl"))
    found: list[Document] = []
    for source in sources:
        if isinstance(source, Path):
            found += _from_file(source)
        elif isinstance(source, dict):
            found.append(_from_entry(source, f"document {len(found)}", str(len(found))))
        else:
            found.append(Document(str(len(found)), text=source))
    if not any(document.text.strip() or document.is_prompt for document in found):
        raise RequestError("the text is empty, there is nothing to measure")
    return found


def _from_file(path: Path) -> list[Document]:
    if str(path) == "-":
        return [Document("stdin", text=_decode(sys.stdin.buffer.read(), "standard input"))]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read text {path}: {error.strerror}") from error
    text = _decode(data, str(path))
    if not text.strip():
        raise RequestError(f"{path} is empty, there is nothing to measure")
    if path.suffix == ".jsonl":
        return list(_from_lines(text, str(path)))
    return [Document(path.name, text=text)]


def _decode(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{name} is not UTF-8 text (byte {error.start})", "give a .txt or .jsonl file"
        ) from error
    if "\0" in text:
        raise RequestError(f"{name} is a binary file", "give a .txt or .jsonl file")
    return text


def _from_lines(text: str, name: str) -> Iterator[Document]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{where} is not JSON: {error}") from error
        yield _from_entry(entry, where, str(number - 1))


def _from_entry(entry: Any, where: str, default_id: str) -> Document:
    expected = 'expected an object with "text", or with "system" and "question"'
    if not isinstance(entry, dict):
        raise RequestError(f"{where}: {expected}")
    for name in ("text", "system", "question"):
        if not isinstance(entry.get(name, ""), str):
            raise RequestError(f"{where}: '{name}' is not a string")
    text, question = entry.get("text", ""), entry.get("question", "")
    if bool(text.strip()) == bool(question.strip()):
        raise RequestError(f"{where}: {expected}")
    identity = str(entry.get("id", default_id))
    return Document(identity, text=text, system=entry.get("system", ""), question=question)


def tokenize(
    documents: Sequence[Document],
    tokenizer: Any,
    *,
    max_length: int = 512,
    max_tokens: int | None = None,
    filler: Filler | None = None,
    chat_template: bool = False,
) -> Corpus:
    """Tokenize documents and cut them into windows of at most ``max_length`` tokens.

    What the tokenizer adds at the start is put at the start of every window and counts in its
    length. System, filler and question are tokenized apart and their ids joined.

    Raises
    ------
    RequestError
        If ``max_length`` leaves no room, a chat template is missing, or no token is left.
    """
    prefix = _prefix(tokenizer)
    room = max_length - len(prefix)
    if room < 1:
        raise RequestError(
            f"--max-length {max_length} leaves no room behind the {len(prefix)} tokens that the "
            "tokenizer adds"
        )
    windows: list[Window] = []
    left = sys.maxsize if max_tokens is None else max_tokens
    truncated = False
    for number, document in enumerate(documents):
        ids, parts = _ids(document, tokenizer, filler, chat_template, number)
        starts = range(0, len(ids), room)
        joined = [np.concatenate([prefix, ids[start : start + room]]) for start in starts]
        kept = _take(joined, left)
        truncated |= sum(map(len, kept)) < sum(map(len, joined))
        left -= sum(map(len, kept))
        for index, piece in enumerate(kept):
            inside = parts[index * room : index * room + len(piece) - len(prefix)]
            whole = np.concatenate([np.zeros(len(piece) - len(inside), np.int8), inside])
            is_last = index == len(kept) - 1
            windows.append(Window(number, index, piece, is_last, whole))
        if left <= 0:
            truncated |= number < len(documents) - 1
            break
    if not windows:
        raise RequestError("the text has no token to measure")
    highest = max(int(window.ids.max()) for window in windows)
    used = sorted({int(token) for window in windows for token in np.unique(window.ids)})
    classes = np.full(highest + 1, _CLASS_OTHER, np.int64)
    classes[used] = classify_tokens([tokenizer.decode([token]) for token in used])
    special = frozenset(int(token) for token in tokenizer.all_special_ids)
    return Corpus(windows, list(documents), classes, special, _sha256(documents), truncated)


def _take(pieces: list[NDArray[np.int64]], left: int) -> list[NDArray[np.int64]]:
    kept: list[NDArray[np.int64]] = []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(kept[-1])
    return kept


def _prefix(tokenizer: Any) -> NDArray[np.int64]:
    """What the tokenizer puts before the tokens of a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return np.array(full[:start], dtype=np.int64)
    return np.empty(0, np.int64)


def _encode(tokenizer: Any, text: str) -> list[int]:
    # verbose=False: the length is ours to cut, the tokenizer's warning about it is noise.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _ids(
    document: Document, tokenizer: Any, filler: Filler | None, chat_template: bool, number: int
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Token ids of a document, and of each the part that it belongs to.

    The parts are tokenized apart, wherever the filler goes: own tokens do not depend on it.
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
    return np.insert(ids, at, run), np.insert(parts, [at] * len(run), _FILLER)


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
            found.append(2 if _CONJUNCTIONS.match(word.lower()) else _CLASS_OTHER)
    return found


def _sha256(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        line = json.dumps(document.as_dict(), ensure_ascii=False, sort_keys=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def random_corpus(
    documents: int, tokens: int, *, seed: int, vocabulary: int, width: int | None, scale: float
) -> Corpus:
    """Make seeded random input for built layers.

    Parameters
    ----------
    documents, tokens
        How many sequences, and how long each is.
    vocabulary
        Token ids are uniform below it.
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
        parts = np.full(tokens, _TEXT, np.int8)
        windows.append(Window(number, 0, ids, is_last=True, parts=parts, hidden=hidden))
    note = json.dumps([documents, tokens, seed, vocabulary, width, scale]).encode()
    classes = np.full(vocabulary, _CLASS_OTHER, np.int64)
    return Corpus(windows, [], classes, frozenset(), hashlib.sha256(note).hexdigest())


def make_batches(
    corpus: Corpus, batch_size: int, *, skip_special: bool = False, own_only: bool = False
) -> list[Batch]:
    """Group windows in document order, ``batch_size`` at a time, padded on the right.

    ``skip_special`` and ``own_only`` leave special tokens and fillers out of what is counted.
    """
    groups = [
        corpus.windows[start : start + batch_size]
        for start in range(0, len(corpus.windows), batch_size)
    ]
    return [_batch(corpus, group, skip_special, own_only) for group in groups]


def _batch(corpus: Corpus, group: list[Window], skip_special: bool, own_only: bool) -> Batch:
    shape = (len(group), max(window.ids.size for window in group))
    ids, valid = np.zeros(shape, np.int64), np.zeros(shape, bool)
    hidden = None
    if group[0].hidden is not None:
        hidden = np.zeros((*shape, group[0].hidden.shape[1]), np.float32)
    for row, window in enumerate(group):
        ids[row, : window.ids.size] = window.ids
        valid[row, : window.ids.size] = True
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
        corpus.classes[ids] if hidden is None else np.full(shape, _CLASS_OTHER),
        (windows[:, None] << 32) + np.arange(shape[1]),
        documents,
        windows,
        finished & begun,
        finished,
    )
