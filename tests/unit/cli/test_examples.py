"""Pages of help: one for each command, with examples of options that it has."""

from __future__ import annotations

import shlex

import pytest

from distviz.cli.examples import GROUPS, PAGES
from distviz.cli.options import options_of


@pytest.mark.parametrize("name", PAGES)
def test_examples_use_options_of_the_command(name: str) -> None:
    page = PAGES[name]
    assert page.group in GROUPS
    assert 3 <= len(page.examples) <= 6
    spellings = [word for option in options_of(name) for word in option.spellings]
    known = {part for word in spellings for part in word.split("/")}
    for example in page.examples:
        program, called, *words = shlex.split(example.line)
        assert (program, called) == ("distviz", name)
        assert {word for word in words if word.startswith("-") and len(word) > 1} <= known
        assert example.purpose.endswith(":")
