"""Classes of tokens, decided on the decoded token: digits, operators, conjunctions, other."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["OTHER", "classify_tokens"]

OTHER = 3
"""The class of what belongs to no other."""
_OPERATORS = re.compile(r"^[-+*/=<>^%&|~!×÷·∙±∓≤≥≠≈√∑∏∫−∗⋅]+$")
_DIGITS = re.compile(r"^[0-9]+([.,][0-9]+)*$")
_CONJUNCTIONS = re.compile(
    r"^(and|or|but|nor|so|yet|for|because|although|though|since|unless|while|whereas|if|then|thus"
    r"|hence|therefore|however|when|whenever|until|before|after|once|than|whether|as|that)$"
)


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
