"""Text to batches: windows, prefixes, padding, token classes, random input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.brute_force import CLASSES, token_class
from support.word_tokenizer import word_tokenizer

from distviz.data.corpus import (
    classify_tokens,
    make_batches,
    random_corpus,
    tokenize,
)
from distviz.data.documents import Document
from distviz.errors import RequestError


def texts(*lines: str) -> list[Document]:
    return [Document(str(number), text=line) for number, line in enumerate(lines)]


def ids_of(corpus: Any) -> list[tuple[int, int, list[int]]]:
    return [(w.document, w.window, w.ids.tolist()) for w in corpus.windows]


# Windows ------------------------------------------------------------------------------------


def test_windows_do_not_overlap_and_never_mix_documents() -> None:
    corpus = tokenize(texts("a b c d e", "f", "g h"), word_tokenizer(), max_length=2)
    assert ids_of(corpus) == [
        (0, 0, [4, 5]), (0, 1, [6, 7]), (0, 2, [8]), (1, 0, [9]), (2, 0, [10, 11]),
    ]  # fmt: skip
    assert [w.is_last for w in corpus.windows] == [False, False, True, True, True]
    assert corpus.tokens == 8
    assert not corpus.truncated


def test_what_is_added_at_the_start_opens_every_window_and_counts() -> None:
    corpus = tokenize(texts("a b c d e", "f"), word_tokenizer(adds=True), max_length=3)
    assert ids_of(corpus) == [
        (0, 0, [1, 4, 5]), (0, 1, [1, 6, 7]), (0, 2, [1, 8]), (1, 0, [1, 9]),
    ]  # fmt: skip
    assert corpus.tokens == 10


def test_the_demo_opens_every_window_with_its_start_token(demo_tokenizer: Any) -> None:
    text = "Anna had 12 apples, so she gave 3 of them away. " * 4
    whole = demo_tokenizer(text, add_special_tokens=False)["input_ids"]
    corpus = tokenize(texts(text), demo_tokenizer, max_length=10)
    assert all(window.ids[0] == 0 for window in corpus.windows)
    assert all(window.ids.size == 10 for window in corpus.windows[:-1])
    assert [int(t) for w in corpus.windows for t in w.ids[1:]] == whole


def test_documents_are_decided_by_position_not_by_content() -> None:
    corpus = tokenize(texts("a", "a", "a"), word_tokenizer(), max_length=4)
    assert [window.document for window in corpus.windows] == [0, 1, 2]


@pytest.mark.parametrize("max_length", [2, 1])
def test_a_window_needs_room_behind_the_prefix(max_length: int) -> None:
    tokenizer = word_tokenizer(adds=True)
    if max_length == 1:
        with pytest.raises(RequestError, match="--max-length 1 is too small"):
            tokenize(texts("a b"), tokenizer, max_length=1)
    else:
        assert ids_of(tokenize(texts("a b"), tokenizer, max_length=2)) == [
            (0, 0, [1, 4]), (0, 1, [1, 5]),
        ]  # fmt: skip


@pytest.mark.parametrize("limit", range(1, 13))
def test_max_tokens_counts_what_the_model_sees(limit: int) -> None:
    tokenizer, documents = word_tokenizer(adds=True), texts("a b c d", "e", "f g h")
    whole = ids_of(tokenize(documents, tokenizer, max_length=3))
    stream = [(d, w, t) for d, w, ids in whole for t in ids]
    corpus = tokenize(documents, tokenizer, max_length=3, max_tokens=limit)
    assert [(w.document, w.window, int(t)) for w in corpus.windows for t in w.ids] == stream[:limit]
    assert corpus.truncated is (limit < len(stream))
    last = {w.document: w.window for w in corpus.windows}
    assert [w.is_last for w in corpus.windows] == [
        w.window == last[w.document] for w in corpus.windows
    ]


def test_a_document_without_tokens_is_no_window() -> None:
    corpus = tokenize(texts("a", "  ", "b"), word_tokenizer(), max_length=4)
    assert [window.document for window in corpus.windows] == [0, 2]
    with pytest.raises(RequestError, match="no token"):
        tokenize(texts("  "), word_tokenizer(), max_length=4)


def test_the_text_has_a_fingerprint() -> None:
    def digest(*lines: str) -> str:
        return tokenize(texts(*lines), word_tokenizer()).sha256

    assert digest("a b") == digest("a b")
    assert len({digest("a b"), digest("a", "b"), digest("b a"), digest("a b", "c")}) == 4


# Batches ------------------------------------------------------------------------------------


def test_batches_are_padded_on_the_right_in_document_order() -> None:
    corpus = tokenize(texts("a b c d e", "f", "g h"), word_tokenizer(), max_length=3)
    batches = make_batches(corpus, 3)
    assert [batch.ids.tolist() for batch in batches] == [
        [[4, 5, 6], [7, 8, 0], [9, 0, 0]], [[10, 11]],
    ]  # fmt: skip
    assert [batch.valid.tolist() for batch in batches] == [
        [[True] * 3, [True, True, False], [True, False, False]], [[True, True]],
    ]  # fmt: skip
    assert [batch.documents.tolist() for batch in batches] == [[0, 0, 1], [2]]
    assert [batch.windows.tolist() for batch in batches] == [[0, 1, 0], [0]]
    assert [batch.whole for batch in batches] == [{0, 1}, {2}]
    assert [batch.finished for batch in batches] == [{0, 1}, {2}]


def test_padding_is_known_from_the_mask_not_from_an_id() -> None:
    tokenizer = word_tokenizer()
    documents = [*texts("a [PAD] b [PAD]"), *texts("c")]
    (batch,) = make_batches(tokenize(documents, tokenizer), 2)
    assert batch.ids.tolist() == [[4, 0, 5, 0], [6, 0, 0, 0]]
    assert batch.valid.tolist() == [[True] * 4, [True, False, False, False]]
    assert (batch.counted == batch.valid).all()
    (batch,) = make_batches(tokenize(documents, tokenizer), 2, skip_special=True)
    assert batch.counted.tolist() == [[True, False, True, False], [True, False, False, False]]
    assert batch.valid.tolist() == [[True] * 4, [True, False, False, False]]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_any_batch_size_gives_the_same_tokens(size: int) -> None:
    corpus = tokenize(texts("a b c d e f g", "a", "b c", "d e f"), word_tokenizer(), max_length=2)
    seen = [
        (int(batch.documents[row]), int(batch.windows[row]), int(token), int(key))
        for batch in make_batches(corpus, size)
        for row in range(len(batch.ids))
        for token, key in zip(
            batch.ids[row][batch.valid[row]], batch.index[row][batch.valid[row]], strict=True
        )
    ]
    alone = [
        (window.document, window.window, int(token), (window.window << 32) + position)
        for window in corpus.windows
        for position, token in enumerate(window.ids)
    ]
    assert seen == alone
    finished = [document for batch in make_batches(corpus, size) for document in batch.finished]
    assert sorted(finished) == [0, 1, 2, 3]


def test_a_document_over_several_batches_is_whole_in_none() -> None:
    corpus = tokenize(texts("a b c d e", "f"), word_tokenizer(), max_length=2)
    batches = make_batches(corpus, 2)
    assert [batch.whole for batch in batches] == [set(), {1}]
    assert [batch.finished for batch in batches] == [set(), {0, 1}]


def test_classes_go_with_their_tokens(demo_tokenizer: Any) -> None:
    corpus = tokenize(texts("If 12 + 3 = 15, then Anna goes."), demo_tokenizer)
    (batch,) = make_batches(corpus, 1)
    wanted = [CLASSES.index(token_class(demo_tokenizer.decode([t]))) for t in batch.ids[0]]
    assert batch.classes[0].tolist() == wanted
    assert {CLASSES[index] for index in wanted} == set(CLASSES)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("7", "digits"), (" 42", "digits"), ("3.14", "digits"), ("1,000", "digits"),
        ("+", "operators"), (" <=", "operators"), ("×", "operators"), ("−", "operators"),
        (" And", "conjunctions"), ("because", "conjunctions"), ("THAN", "conjunctions"),
        ("android", "other"), ("", "other"), (" ", "other"), ("7a", "other"), ("a+b", "other"),
        ("+7", "other"), (".", "other"), ("<s>", "other"), ("\n", "other"),
    ],
)  # fmt: skip
def test_token_classes(token: str, expected: str) -> None:
    assert CLASSES[classify_tokens([token])[0]] == expected == token_class(token)


# Random input -------------------------------------------------------------------------------


def test_random_input_follows_from_its_seed() -> None:
    def hidden(seed: int, documents: int = 3) -> Any:
        corpus = random_corpus(documents, 9, seed=seed, vocabulary=50, width=6, scale=2.0)
        return corpus, np.stack([window.hidden for window in corpus.windows])

    corpus, values = hidden(1)
    assert values.shape == (3, 9, 6)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, hidden(1)[1])
    np.testing.assert_array_equal(values[:2], hidden(1, 2)[1])
    assert not np.array_equal(values, hidden(2)[1])
    assert not np.array_equal(values[0], values[1])
    assert corpus.sha256 != hidden(2)[0].sha256
    (batch,) = make_batches(corpus, 4)
    np.testing.assert_array_equal(batch.hidden, values)
    large = random_corpus(4, 500, seed=0, vocabulary=50, width=20, scale=2.0)
    everything = np.stack([window.hidden for window in large.windows])
    assert everything.std() == pytest.approx(2.0, rel=0.02)


def test_random_tokens_stay_in_the_vocabulary() -> None:
    corpus = random_corpus(5, 200, seed=0, vocabulary=7, width=None, scale=1.0)
    ids = np.concatenate([window.ids for window in corpus.windows])
    assert set(ids.tolist()) == set(range(7))
    assert all(window.hidden is None for window in corpus.windows)


# Refused ------------------------------------------------------------------------------------


def test_documents_without_tokens_are_said_once() -> None:
    (note,) = tokenize(texts("a", "  ", "b", " "), word_tokenizer()).notes
    assert note == "the tokenizer makes no token of the text (2 of 4 documents, first '1')"


def test_a_tokenizer_that_fails_is_an_error_of_the_document() -> None:
    def broken(text: str, **_: Any) -> Any:
        if len(text) > 1:
            raise ValueError("WordLevel error: Missing [UNK] token")
        return {"input_ids": [4]}

    with pytest.raises(RequestError, match="document '0': the tokenizer fails: WordLevel error"):
        tokenize(texts("a b"), broken)
