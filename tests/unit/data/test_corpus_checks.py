"""Ids beyond the embedding, windows beyond the positions, documents of special tokens alone."""

from __future__ import annotations

import pytest
from support.word_tokenizer import word_tokenizer

from distviz.data.corpus import tokenize
from distviz.data.corpus_checks import check_ids, check_lengths, without_special
from distviz.data.documents import Document
from distviz.errors import RequestError


def texts(*lines: str) -> list[Document]:
    return [Document(str(number), text=line) for number, line in enumerate(lines)]


def test_ids_beyond_the_embedding_are_named() -> None:
    tokenizer = word_tokenizer()
    corpus = tokenize(texts("a b", "c ?"), tokenizer)
    check_ids(corpus, 14, tokenizer)
    with pytest.raises(RequestError, match=r"token 13 \('\?'\) of document '1'") as caught:
        check_ids(corpus, 13, tokenizer)
    assert "which has 13 (0 to 12)" in caught.value.message


def test_windows_longer_than_the_positions_are_named() -> None:
    corpus = tokenize(texts("a", "b c d"), word_tokenizer())
    check_lengths(corpus, 3)
    with pytest.raises(RequestError, match="document '1' has a window of 3 tokens") as caught:
        check_lengths(corpus, 2)
    assert "the model has 2 positions" in caught.value.message


def test_special_tokens_alone_leave_nothing_to_count() -> None:
    tokenizer = word_tokenizer(adds=True)
    with pytest.raises(RequestError, match="the text consists of 3 special tokens"):
        without_special(tokenize(texts("[PAD] [SEP]"), tokenizer))
    (note,) = without_special(tokenize(texts("a", "[PAD] [SEP]"), tokenizer)).notes
    assert note == "--skip-special leaves nothing of the text (1 of 2 documents, first '1')"
