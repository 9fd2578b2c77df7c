"""Prompts: ids with a filler at its position, chat templates, ids of the prompt unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from support.chat_templates import CHAT_TEMPLATES, with_start
from support.word_tokenizer import word_tokenizer
from tokenizers import AddedToken

from distviz.data.corpus import tokenize
from distviz.data.documents import Document
from distviz.data.prompts import ROLES, Filler, special_ids
from distviz.errors import RequestError

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


# Start tokens -------------------------------------------------------------------------------

TURNS = (("user", "2 + 2?"), ("assistant", "4"), ("user", "3 + 3?"), ("assistant", "6"))
CHATS = [
    Document("question", question="What is 3 + 4?"),
    Document("system", system="Be brief.", question=" 2 + 2? "),
    Document("long", question="Anna had 12 apples. " * 9),
    Document("start", question="<s>Hello"),
    Document("turns", messages=TURNS),
    Document("turns of a system", messages=(("system", "Count."), *TURNS)),
]
TOKENIZERS: dict[str, dict[str, Any]] = {
    "adds": {"adds": True},
    "adds none": {"adds": False},
    "start is end": {"adds": True, "bos": "</s>"},
    "start is end, added never": {"adds": False, "bos": "</s>"},
}


def merged_cuts(ids: list[int], prefix: list[int], size: int) -> list[list[int]]:
    """Windows by a plain loop: a start token that a cut leaves first is the window's own."""
    windows = []
    while ids:
        if windows and prefix and ids[: len(prefix)] == prefix:
            ids = ids[len(prefix) :]
        windows.append(prefix + ids[:size])
        ids = ids[size:]
    return windows


@pytest.mark.usefixtures("in_process_chats")
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_chats_have_the_ids_of_transformers_and_one_start_token(
    name: str, kind: str, demo_tokenizer: Any
) -> None:
    tokenizer = with_start(demo_tokenizer, **TOKENIZERS[kind])
    tokenizer.chat_template = CHAT_TEMPLATES[name]
    prefix = [tokenizer.bos_token_id] if TOKENIZERS[kind]["adds"] else []
    assert tokenizer("a")["input_ids"][:-1] == prefix
    for size in (512, 8):
        expected = []
        for document in CHATS:
            ends = document.chat[-1]["role"] != "assistant"
            whole = tokenizer.apply_chat_template(document.chat, add_generation_prompt=ends)
            ids = list(whole["input_ids"])
            ids = ids[len(prefix) :] if ids[: len(prefix)] == prefix else ids
            expected += merged_cuts(ids, prefix, size - len(prefix))
        corpus = tokenize(CHATS, tokenizer, max_length=size, chat_template=True)
        assert [window.ids.tolist() for window in corpus.windows] == expected
        assert all(len(window.parts) == len(window.ids) for window in corpus.windows)
        for window in corpus.windows:
            assert window.ids[: len(prefix)].tolist() == prefix
            if prefix and CHATS[window.document].id != "start":
                assert window.ids[1:2].tolist() != prefix


@pytest.mark.usefixtures("in_process_chats")
@pytest.mark.parametrize("position", ["start", "between", "end", "random"])
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_filler_leaves_the_ids_of_a_chat(name: str, position: str, demo_tokenizer: Any) -> None:
    tokenizer = with_start(demo_tokenizer, adds=True)
    tokenizer.chat_template = CHAT_TEMPLATES[name]
    plain = tokenize(CHATS, tokenizer, chat_template=True)
    filled = tokenize(CHATS, tokenizer, filler=Filler("<s>/", 5, position, 1), chat_template=True)
    run = tokenizer("<s>/", add_special_tokens=False)["input_ids"] * 5
    for before, after in zip(plain.windows, filled.windows, strict=True):
        assert after.ids[after.own].tolist() == before.ids.tolist()
        assert after.parts[after.own].tolist() == before.parts.tolist()
        assert after.ids[~after.own].tolist() == run
        assert after.ids[0] == 0


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", ["<s>Hello", "</s>Hello", "<s>", "<s><s>a", "Hello<s>", "Hello"])
def test_a_text_that_begins_with_the_start_token(text: str, kind: str, demo_tokenizer: Any) -> None:
    tokenizer = with_start(demo_tokenizer, **TOKENIZERS[kind])
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    prefix = [tokenizer.bos_token_id] if TOKENIZERS[kind]["adds"] else []
    repeats = bool(prefix) and own[:1] == prefix
    corpus = tokenize([Document("a", text=text), Document("b", text=text)], tokenizer)
    assert corpus.windows[0].ids.tolist() == (own if repeats else prefix + own)
    notes = [note for note in corpus.notes if "begins with" in note]
    assert len(notes) == repeats
    if repeats:
        assert "(2 of 2 documents, first 'a')" in notes[0]


@pytest.mark.usefixtures("in_process_chats")
def test_what_the_template_leaves_out_is_said_once(demo_tokenizer: Any) -> None:
    tokenizer = with_start(demo_tokenizer, adds=True)
    prompts = [*CHATS, Document("text", text="Hello")]
    cases = {
        "{{ messages[-1].content }}": "leaves the system prompt out (2 of 7",
        "{{ messages[0].content }}": "leaves the question out (2 of 7",
        "{{ messages }}{{ strftime_now('%Y') }}": "writes the date",
        "{{ messages }}": "--chat-template does not change it (1 of 7 documents, first 'text')",
    }
    for template, note in cases.items():
        tokenizer.chat_template = template
        corpus = tokenize(prompts, tokenizer, chat_template=True)
        assert sum(note in one for one in corpus.notes) == 1, corpus.notes
    (note,) = (note for note in tokenize(CHATS, tokenizer).notes if "begins with" not in note)
    assert "joined without their roles" in note
    assert "(2 of 6 documents" in note


@pytest.mark.parametrize("string", ["\ud83d", "a\udc80"])
def test_a_filler_is_text(string: str) -> None:
    with pytest.raises(RequestError, match="--filler has a lone surrogate"):
        Filler(string, 1, "end", 0)


# Roles --------------------------------------------------------------------------------------


def roles_of(document: Document, tokenizer: Any, **options: Any) -> list[tuple[str, str]]:
    """Return the text of each token of the first window, and its role."""
    window = tokenize([document], tokenizer, **options).windows[0]
    texts = [tokenizer.decode([token]) for token in window.ids.tolist()]
    return list(zip(texts, (ROLES[role] for role in window.roles), strict=True))


def joined(found: list[tuple[str, str]], role: str) -> str:
    return "".join(text for text, own in found if own == role)


TALK = Document(
    "t",
    messages=(
        ("system", "Be kind."), ("user", "2 + 2 </s> ?"), ("assistant", "It is 4, so."),
        ("tool", "y = 7"), ("user", "Then?"),
    ),
)  # fmt: skip


@pytest.mark.parametrize("is_rendered", [False, True])
def test_roles_are_those_of_the_messages(*, is_rendered: bool, demo_tokenizer: Any) -> None:
    tokenizer = with_start(demo_tokenizer, adds=True)
    tokenizer.chat_template = CHAT_TEMPLATES["plain"]
    found = roles_of(TALK, tokenizer, chat_template=is_rendered)
    assert found[0] == ("<s>", "special")
    assert joined(found, "system").strip() == "Be kind."
    assert joined(found, "user").replace(" ", "") == "2+2?Then?"
    assert joined(found, "assistant").strip() == "It is 4, so."
    assert joined(found, "special") == "<s></s>"
    assert "y = 7" in joined(found, "rest")
    assert ("user: " in joined(found, "rest").replace("  ", " ")) == is_rendered


def test_a_filler_keeps_its_role(demo_tokenizer: Any) -> None:
    prompt = Document("p", system="Be kind.", question="2 + 2?")
    filler = Filler("</s>", 3, "between", 0)
    plain = roles_of(prompt, demo_tokenizer)
    found = roles_of(prompt, demo_tokenizer, filler=filler)
    assert joined(found, "filler") == "</s>" * 3
    assert [one for one in found if one[1] != "filler"] == plain


def test_tokens_marked_as_special_are_special(demo_tokenizer: Any) -> None:
    tokenizer = with_start(demo_tokenizer, adds=True)
    before = special_ids(tokenizer)
    assert before == frozenset(tokenizer.all_special_ids)
    tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("<plain>")])
    header, plain = tokenizer.convert_tokens_to_ids(["<|header|>", "<plain>"])
    assert header not in tokenizer.all_special_ids
    assert special_ids(tokenizer) == before | {header}
    found = roles_of(Document("d", text="a <|header|> <plain>"), tokenizer)
    assert ("<|header|>", "special") in found
    assert ("<plain>", "rest") in found
    corpus = tokenize([Document("d", text="a <|header|>")], tokenizer)
    assert {header} <= corpus.special
    assert plain not in corpus.special


def test_a_tokenizer_that_reports_no_places_gives_no_roles(demo_tokenizer: Any) -> None:
    class Slow:
        is_fast = False

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, *args: Any, **options: Any) -> Any:
            return tokenizer(*args, **options)

    tokenizer = with_start(demo_tokenizer, adds=True)
    tokenizer.chat_template = CHAT_TEMPLATES["plain"]
    corpus = tokenize([TALK], Slow(), chat_template=True)
    assert {ROLES[role] for role in corpus.windows[0].roles} == {"special", "rest"}
    assert any("the role of its tokens is rest" in note for note in corpus.notes)
