"""Text to batches: windows, prefixes, padding, fillers, classes, and what a bad file gets."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.brute_force import CLASSES, token_class
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distviz.data.corpus import classify_tokens, make_batches, random_corpus, tokenize
from distviz.data.documents import Document, read_documents
from distviz.data.prompts import Filler
from distviz.errors import RequestError

WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {
    w: i + 4 for i, w in enumerate("abcdefgh/?")
}


def word_tokenizer(*, adds: bool = False, chat_template: str | None = None) -> Any:
    """One id a word; ``adds`` puts [CLS] before and [SEP] behind a text, as BERT does."""
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.chat_template = chat_template
    return fast


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


# Fillers ------------------------------------------------------------------------------------

PROMPT = Document("p", system="a b c", question="d e ?")
OWN = [4, 5, 6, 7, 8, 13]


def filled(position: str, *, string: str = "/", count: int = 3, seed: int = 0) -> list[int]:
    filler = Filler(string, count, position, seed)
    corpus = tokenize([PROMPT], word_tokenizer(), filler=filler)
    return corpus.windows[0].ids.tolist()


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("start", [12] * 3 + OWN),
        ("between", OWN[:3] + [12] * 3 + OWN[3:]),
        ("end", OWN + [12] * 3),
    ],
)
def test_where_a_filler_goes(position: str, expected: list[int]) -> None:
    assert filled(position) == expected


def test_a_random_place_follows_from_the_seed_and_keeps_the_run_together() -> None:
    found = {tuple(filled("random", seed=seed)) for seed in range(40)}
    assert len(found) > 3
    for ids in found:
        start = ids.index(12)
        assert list(ids[start : start + 3]) == [12] * 3
        assert [token for token in ids if token != 12] == OWN
    assert filled("random", seed=4) == filled("random", seed=4)


@pytest.mark.parametrize("position", ["start", "between", "end", "random"])
@pytest.mark.parametrize("string", ["/", "a ?", " zz"])
def test_the_prompt_keeps_its_ids(position: str, string: str, demo_tokenizer: Any) -> None:
    prompt = Document("p", system="You are help", question="ful. What is 3 + 4?")
    own = [
        token
        for part in (prompt.system, prompt.question)
        for token in demo_tokenizer(part, add_special_tokens=False)["input_ids"]
    ]
    run = demo_tokenizer(string, add_special_tokens=False)["input_ids"] * 5
    plain = tokenize([prompt], demo_tokenizer).windows[0].ids.tolist()
    assert plain == [0, *own]
    ids = tokenize([prompt], demo_tokenizer, filler=Filler(string, 5, position, 1))
    with_filler = ids.windows[0].ids.tolist()
    assert len(with_filler) == len(plain) + len(run)
    places = [i for i in range(len(with_filler)) if with_filler[i : i + len(run)] == run]
    assert any(with_filler[:i] + with_filler[i + len(run) :] == plain for i in places)


def test_no_repetition_is_no_filler() -> None:
    assert filled("between", count=0) == OWN


TEMPLATE = (
    "{% for m in messages %}{{ '[CLS] ' if m.role == 'system' else '[SEP] ' }}"
    "{{ m.content }} {% endfor %}{% if add_generation_prompt %}g{% endif %}"
)


def test_a_chat_template_wraps_prompts_and_the_filler_stands_where_it_was_put() -> None:
    tokenizer = word_tokenizer(chat_template=TEMPLATE)

    def ids(filler: Filler | None = None) -> list[int]:
        corpus = tokenize([PROMPT], tokenizer, filler=filler, chat_template=True)
        return corpus.windows[0].ids.tolist()

    assert ids() == [1, 4, 5, 6, 2, 7, 8, 13, 10]
    assert ids(Filler("/", 2, "between", 0)) == [1, 4, 5, 6, 2, 12, 12, 7, 8, 13, 10]
    assert ids(Filler("/", 2, "start", 0)) == [1, 12, 12, 4, 5, 6, 2, 7, 8, 13, 10]
    with pytest.raises(RequestError, match="no chat template"):
        tokenize([PROMPT], word_tokenizer(), chat_template=True)


# Reading ------------------------------------------------------------------------------------


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path, "story.txt", "one\n\ntwo\n")
    (document,) = read_documents([path])
    assert (document.id, document.text) == ("story.txt", "one\n\ntwo\n")


def test_sources_join_in_order(tmp_path: Path) -> None:
    first = write(tmp_path, "a.txt", "A")
    second = write(tmp_path, "b.jsonl", '{"text": "B"}\n{"question": "C?"}\n')
    found = read_documents([first, second, "D", {"system": "S", "question": "E?"}])
    assert [d.text or d.question for d in found] == ["A", "B", "C?", "D", "E?"]
    assert [d.is_prompt for d in found] == [False, False, True, False, True]


def test_jsonl(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": 7, "text": "x\ny", "other": [1]}),
        "",
        json.dumps({"system": "S", "question": "Q"}),
    ]
    path = write(tmp_path, "d.jsonl", "\r\n".join(lines) + "\r\n")
    first, second = read_documents([path])
    assert (first.id, first.text) == ("7", "x\ny")
    assert (second.system, second.question) == ("S", "Q")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_json_strings_may_hold_what_python_takes_for_an_end_of_line(
    tmp_path: Path, mark: str
) -> None:
    text = f"a{mark}b"
    shown = text if mark > "\x1f" else json.dumps(text)[1:-1]
    path = write(tmp_path, "d.jsonl", f'{{"text": "{shown}"}}\n{{"text": "c"}}\n')
    assert [d.text for d in read_documents([path])] == [text, "c"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    plain = write(tmp_path, "a.txt", bom + b"text")
    lines = write(tmp_path, "a.jsonl", bom + b'{"text": "text"}\n')
    assert [d.text for d in read_documents([plain, lines])] == ["text", "text"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    give("größer\nals".encode())
    assert [d.text for d in read_documents([Path("-")])] == ["größer\nals"]
    give(b"")
    with pytest.raises(RequestError, match="empty"):
        read_documents([Path("-")])
    give(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="standard input is not UTF-8"):
        read_documents([Path("-")])


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b" \n\t\n", r"a\.txt is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl is empty"),
        ("a.txt", b"caf\xe9 au lait", r"a\.txt is not UTF-8 text \(byte 3\)"),
        ("a.txt", b"PK\x03\x04\x00\x00abc", r"a\.txt is a binary file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n\nnope\n', r"a\.jsonl, line 3 is not JSON"),
        ("a.jsonl", b'["a"]\n', r"line 1: expected an object"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"line 2: expected"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: 'text' is not a string"),
        ("a.jsonl", b'{"text": null}\n', r"line 1: 'text' is not a string"),
        ("a.jsonl", b'{"system": "s"}\n', r"line 1: expected"),
        ("a.jsonl", b'{"text": "t", "question": "q"}\n', r"line 1: expected"),
        ("a.jsonl", b'{"text": ""}\n', r"line 1: expected"),
    ],
)
def test_what_a_bad_file_gets(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        read_documents([write(tmp_path, name, data)])


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.txt: No such file"):
        read_documents([tmp_path / "nowhere.txt"])
    with pytest.raises(RequestError, match="Is a directory"):
        read_documents([tmp_path])


@pytest.mark.parametrize("source", ["", "   ", "\n"])
def test_an_empty_text_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="empty"):
        read_documents([source])


def test_the_embedded_documents() -> None:
    found = read_documents([])
    assert len(found) >= 24
    assert len({document.id for document in found}) == len(found)
    assert all(document.text.strip() for document in found)


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
