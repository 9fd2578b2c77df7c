"""Make the demo model that ships inside the wheel, from nothing but this file and a seed.

The corpus is written by a small seeded grammar (below), so no third-party text is involved.
A byte-level BPE tokenizer and a small Llama-style network are trained on it, on one CPU thread,
and saved with some held-out documents to ``distviz/demo``. Run it from the repository root:

    python scripts/train_demo.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

REPOSITORY = Path(__file__).resolve().parent.parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
BOS, EOS, PAD = 0, 1, 2
MAX_POSITIONS = 1024

# ---------------------------------------------------------------------------------------------
# The words of the grammar. In a phrase, {key} is a word that the scene draws once and keeps,
# <a|b> is a free choice, and a phrase may hold further keys.
# ---------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text; if there are bars in it, the phrases between them."""
    return text.split("|" if "|" in text else None)


WOMEN = words(
    "Anna Clara Dora Ella Flora Grace Hannah Ida Julia Kate Lucy Maria Nina Olga Rosa Sara"
)
MEN = words(
    "Adam Ben Carl David Emil Frank George Henry Ivan Jack Karl Leo Martin Noah Oscar Paul Tom"
)

LEXICON: dict[str, list[str]] = {
    "name": WOMEN + MEN,
    "fruit": words("apple pear plum orange lemon peach cherry banana melon fig"),
    "vegetable": words("carrot onion potato tomato cabbage bean leek turnip mushroom beet"),
    "thing": words(
        "book pencil stamp shell button coin marble card ticket candle ribbon basket cup plate "
        "spoon stone flower key bottle box letter picture brush nail brick"
    ),
    "treasure": words(
        "map|lantern|kite|violin|clock|ring|drum|wooden boat|silver coin|telescope|compass|"
        "notebook|scarf|hat|mirror|bell|music box|whistle"
    ),
    "animal": words(
        "dog cat goat horse cow hen duck rabbit fox bear owl mouse sheep donkey squirrel frog "
        "turtle crow hedgehog pony"
    ),
    "place": words(
        "river|forest|market|harbour|mill|bridge|garden|school|library|station|farm|church|lake|"
        "hill|bakery|castle|beach|field|workshop|museum|barn|valley|village|old tower"
    ),
    "room": words("kitchen|bedroom|attic|cellar|hall|bathroom|study|shed"),
    "colour": words("red blue green yellow white black brown grey purple pink golden"),
    "size": words("small large tiny huge tall short narrow wide heavy light"),
    "quality": words(
        "old new bright dark quiet loud soft hard clean dusty warm cold strange beautiful broken "
        "simple rare lovely strong plain"
    ),
    "mood": words("sad tired worried hungry afraid lonely thirsty bored angry nervous"),
    "joy": words("happy proud calm excited grateful glad surprised cheerful"),
    "feeling": words(
        "happy sad tired proud angry worried curious hungry surprised calm afraid excited lonely "
        "thirsty grateful bored"
    ),
    "nature": words("kind brave patient clever shy honest careful lazy stubborn gentle funny"),
    "manner": words(
        "slowly quickly quietly carefully gently suddenly happily sadly loudly softly bravely "
        "politely"
    ),
    "trade": words(
        "baker farmer teacher doctor sailor carpenter painter tailor gardener miller fisherman "
        "librarian shopkeeper clockmaker driver nurse"
    ),
    "relative": words("mother father sister brother grandmother grandfather aunt uncle cousin"),
    "tool": words("hammer saw shovel ladder rope bucket broom needle knife wheel"),
    "vehicle": words("train bus boat bicycle cart wagon ship tram"),
    "day": words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": words(
        "January February March April May June July August September October November December"
    ),
    "season": words("spring summer autumn winter"),
    "time": words("morning afternoon evening night"),
    "side": words("north south east west"),
    "sky": words("sunny|cloudy|rainy|windy|foggy|stormy|clear|snowy|dry|mild|damp|freezing"),
    "meal": words("breakfast|lunch|dinner|supper"),
    "dish": words(
        "soup|stew|pie|salad|bread|cake|porridge|pancakes|sauce|jam|biscuits|pudding|omelette"
    ),
    "staple": words("flour sugar butter milk rice honey cheese water cream oil"),
    "spice": words("salt|pepper|cinnamon|parsley|garlic|ginger|mint|thyme"),
    "weathered": words(
        "it was raining|the wind was strong|the snow was deep|the sun was hot|the fog was thick|"
        "it was already dark|the road was long|the river was high|the stairs were steep"
    ),
    "chore": words(
        "clean the {room}|mend the fence|feed the hens|paint the door|sweep the floor|"
        "carry the {tool}|water the flowers|wash the windows|chop the wood|bake the bread|"
        "sort the books|repair the roof|milk the cow|write a letter|count the coins"
    ),
    "wish": words(
        "see the sea|learn to swim|find the lost {treasure}|build a small boat|play the violin|"
        "grow the largest pumpkin|read every book in the library|travel by {vehicle}|"
        "visit {his} {relative}|win the race|make a new friend|climb the hill"
    ),
    "did": words(
        "opened the door|looked out of the window|sat down by the fire|lit a candle|"
        "took a deep breath|walked to the {place}|ran across the field|climbed the ladder|"
        "picked up the {tool}|drank a cup of tea|closed {his} eyes|counted to ten|"
        "called for help|followed the path|waited for an hour|wrote a short note|"
        "looked under the table|asked the {trade}|packed a bag|turned the key"
    ),
    "lesson": words(
        "it is better to ask than to guess|a friend is worth more than gold|"
        "patience is stronger than anger|small steps make a long journey|"
        "help often comes from the smallest creature|a promise must be kept|"
        "nobody is too old to learn|it is easy to be wrong and hard to say so|"
        "good work takes time|sharing makes everything taste better"
    ),
}

FACTS: list[tuple[str, str, str, str]] = [
    # (what happens, why, what follows, what would stop it)
    ("the ice melts", "the sun warms it", "the water runs down to the river", "it stays cold"),
    ("the bread rises", "the yeast makes gas", "the loaf becomes soft", "the dough is too cold"),
    ("the leaves fall", "the days grow short", "the ground turns brown", "the tree is a pine"),
    ("the kettle whistles", "the water boils", "the cook makes tea", "the fire goes out"),
    (
        "the boat floats",
        "it is lighter than the water it pushes away",
        "it can carry people across the lake",
        "it has a hole",
    ),
    (
        "the lamp shines",
        "a current flows through the wire",
        "we can read at night",
        "the wire is broken",
    ),
    (
        "the plant grows",
        "it drinks water and catches the light",
        "it makes new leaves",
        "nobody waters it",
    ),
    (
        "the milk turns sour",
        "it stands in a warm place",
        "nobody wants to drink it",
        "it is kept in the cold cellar",
    ),
    ("the wheel turns", "the river pushes it", "the mill grinds the corn", "the river is dry"),
    (
        "the birds fly south",
        "the winter is cold and food is rare",
        "the forest becomes quiet",
        "people feed them",
    ),
    (
        "the shadow grows longer",
        "the sun sinks in the west",
        "the evening becomes cool",
        "a cloud hides the sun",
    ),
    ("the iron rusts", "it meets water and air", "the gate becomes weak", "it is painted"),
    ("the clock stops", "its spring is loose", "everybody comes late", "somebody winds it"),
    (
        "the road is slippery",
        "the rain froze in the night",
        "the cart moves slowly",
        "the farmer puts sand on it",
    ),
    (
        "the echo comes back",
        "the sound hits the wall of the valley",
        "we hear our own words twice",
        "the valley is full of trees",
    ),
    (
        "the soup tastes flat",
        "there is no salt in it",
        "the guests ask for pepper",
        "the cook tastes it early",
    ),
    (
        "the tide rises",
        "the moon pulls the sea",
        "the boats leave the harbour",
        "the water is only a small lake",
    ),
    (
        "the balloon flies up",
        "warm air is lighter than cold air",
        "the people below look very small",
        "the air inside grows cold",
    ),
    (
        "the wool keeps us warm",
        "it holds still air between its threads",
        "we can walk through the snow",
        "it is wet",
    ),
    (
        "the glass breaks",
        "it cannot bend",
        "somebody must sweep the floor",
        "it lands on a soft carpet",
    ),
    (
        "the bees visit the flowers",
        "they look for something sweet",
        "the trees bear fruit",
        "it rains all day",
    ),
    (
        "the price goes up",
        "many people want to buy and few want to sell",
        "the poor buy less bread",
        "the harvest is good",
    ),
    (
        "the moon looks bright",
        "the sun shines on it",
        "we can see the path at night",
        "the sky is cloudy",
    ),
    (
        "the sand is hot",
        "the sun has shone on it since the morning",
        "the children run to the water",
        "there is shade",
    ),
]

IRREGULAR = {"mouse": "mice", "sheep": "sheep", "knife": "knives", "fox": "foxes"}
PRONOUNS = {
    "he": ("she", "he"),
    "his": ("her", "his"),
    "him": ("her", "him"),
    "himself": ("herself", "himself"),
    "boy": ("girl", "boy"),
    "man": ("woman", "man"),
}
NUMBER_WORDS = words("no one two three four five six seven eight nine ten eleven twelve")


def plural(noun: str) -> str:
    """The plural of an English noun."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith(("s", "sh", "ch", "x", "to")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    """The text with its first letter made a capital."""
    return text[:1].upper() + text[1:]


def count(number: int, noun: str) -> str:
    """A number with its noun, which agrees with it."""
    return f"{number} {noun if number == 1 else plural(noun)}"


class Scene(dict[str, str]):
    """The words drawn for one document: each key is drawn on first use and then stays."""

    def __init__(self, rng: random.Random, **given: object) -> None:
        super().__init__({key: str(value) for key, value in given.items()})
        self.rng = rng

    def __missing__(self, key: str) -> str:
        self[key] = self._draw(key)
        return self[key]

    def _draw(self, key: str) -> str:
        """{Key} is a capital, {key_s} a plural, {a_key} has an article, {key2} is a second."""
        if key[0].isupper():
            return capital(self[key[0].lower() + key[1:]])
        if key.endswith("_s"):
            return plural(self[key[:-2]])
        if key.startswith("a_"):
            return article(self[key[2:]])
        base = key.rstrip("0123456789")
        if base in PRONOUNS:
            woman = self["name" + key[len(base) :]] in WOMEN
            return PRONOUNS[base][0 if woman else 1]
        used = {value for other, value in self.items() if other.rstrip("0123456789") == base}
        while (word := self.fill(self.rng.choice(LEXICON[base]))) in used:
            pass
        return word

    def fill(self, phrase: str) -> str:
        """Resolve the choices of a phrase from the inside out, then its keys."""
        while True:
            chosen = re.sub(
                r"<([^<>]*\|[^<>]*)>", lambda found: self.rng.choice(found[1].split("|")), phrase
            )
            if chosen == phrase:
                return chosen.format_map(self)
            phrase = chosen

    def say(self, *phrases: str) -> str:
        """One of the phrases, filled in."""
        return self.fill(self.rng.choice(phrases))

    def some(self, least: int, most: int, phrases: Iterable[str]) -> list[str]:
        """Between least and most different phrases, in a random order, filled in."""
        pool = list(phrases)
        number = min(len(pool), self.rng.randint(least, most))
        return [self.fill(phrase) for phrase in self.rng.sample(pool, number)]

    def again(self, *keys: str) -> None:
        """Forget these keys, so that they are drawn anew."""
        for key in keys:
            self.pop(key, None)


# ---------------------------------------------------------------------------------------------
# The genres. Each returns one piece of text, a paragraph or a few.
# ---------------------------------------------------------------------------------------------


def change_problem(rng: random.Random) -> str:
    """A word problem in which somebody gains and loses things, step by step."""
    s = Scene(rng)
    now = rng.randint(2, 20)
    noun = s[rng.choice(["fruit", "thing"])]
    text = [s.fill(f"{{name}} <has|owns|keeps> {count(now, noun)}.")]
    for _ in range(rng.randint(1, 4)):
        step = rng.randint(1, 12)
        if rng.random() < 0.5 and now > step:
            text.append(
                s.say(
                    f"{{He}} gives {step} to {{name2}}.",
                    f"{{He}} loses {step} of them.",
                    f"Then {{he}} sells {step} at the {{place}}.",
                    f"But {step} of them <break|fall into the river>.",
                )
            )
            sign, result = "-", now - step
        else:
            text.append(
                s.say(
                    f"{{He}} <buys|finds> {step} more.",
                    f"{{His}} {{relative}} gives {{him}} {step} more.",
                    f"And then {{he}} gets {step} from {{name2}}.",
                )
            )
            sign, result = "+", now + step
        text.append(f"{now} {sign} {step} = {result}.")
        now = result
    text.append(
        s.say(
            f"So {{he}} has {count(now, noun)} <now|in the end|left>.",
            f"The answer is {now}.",
            f"Now {{name}} has {count(now, noun)}.",
        )
    )
    return " ".join(text)


def group_problem(rng: random.Random) -> str:
    """A word problem with multiplication or division, then one more step."""
    s = Scene(rng)
    groups, each, extra = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    total, noun = groups * each, plural(s[rng.choice(["fruit", "thing", "vegetable"])])
    if rng.random() < 0.5:
        return s.say(
            f"There are {groups} <baskets|boxes|bags> in the {{room}}; each holds {each} {noun}. "
            f"{groups} * {each} = {total}, so there are {total} {noun} in all. "
            f"Then {{name}} brings {extra} more, and {total} + {extra} = {total + extra}.",
            f"{{A_trade}} sells {each} {noun} every day for {groups} days. How many is that? "
            f"{each} * {groups} = {total}. But {extra} came back, so {total} - {extra} = "
            f"{total - extra}. The answer is {total - extra}.",
        )
    return s.say(
        f"{{name}} wants to share {total} {noun} between {groups} friends. "
        f"{total} / {groups} = {each}, so each friend gets {each} {noun}. "
        f"If everybody eats one, each has {each} - 1 = {each - 1} left.",
        f"The {{trade}} has {total} {noun} and puts them in {groups} equal rows. "
        f"Each row has {total} / {groups} = {each} {noun}. Check: {groups} * {each} = {total}.",
    )


def price_problem(rng: random.Random) -> str:
    """A word problem with two prices, a sum and the change."""
    s = Scene(rng)
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    m, n = rng.randint(1, 6), rng.randint(2, 6)
    total = a * m + b * n
    paid = (total // 10 + 1) * 10
    text = s.say(
        f"{{Name}} goes to the {{place}} to buy {{fruit_s}} and {{vegetable_s}}. "
        f"{{A_fruit}} costs {count(a, 'coin')} and {{a_vegetable}} costs {count(b, 'coin')}. "
        f"{{He}} takes {count(m, s['fruit'])} and {count(n, s['vegetable'])}. "
        f"The {{fruit_s}} cost {m} * {a} = {m * a} coins, while the {{vegetable_s}} cost "
        f"{n} * {b} = {n * b} coins. Together that is {m * a} + {n * b} = {total} coins."
    )
    return text + s.say(
        f" {{He}} pays with {paid} coins, so {{he}} gets {paid} - {total} = {paid - total} back.",
        f" {{He}} has {paid} coins, and {paid} - {total} = {paid - total} are left.",
    )


def arithmetic(rng: random.Random) -> str:
    """One to three word problems."""
    makers = [change_problem, change_problem, group_problem, price_problem]
    pieces = [rng.choice(makers)(rng) for _ in range(rng.randint(1, 3))]
    if len(pieces) > 1 and rng.random() < 0.6:
        pieces = [f"Problem {i}. {piece}" for i, piece in enumerate(pieces, 1)]
    return "\n".join(capital(piece) for piece in pieces)


OPENINGS = [
    "Once there was {a_nature} {trade} <named|called> {name}, who lived near the {place}.",
    "{Name} was {a_nature} {boy} who lived in {a_size} house beside the {place}.",
    "In the {season}, {name} and {his} {relative} moved to a village near the {place}.",
    "One {time} in {month}, {name} found {a_quality} {treasure} behind the {place}.",
    "There was once {a_size} {animal} that lived under the {place} with {name} the {trade}.",
    "Every {day}, {name} walked to the {place}, because {he} wanted to {wish}.",
]
TROUBLES = [
    "But one {time} the {treasure} was gone, and nobody knew where it was.",
    "One {day}, {a_colour} {animal} came to the door, and it was very {mood}.",
    "{He} was often {mood}, because {he} had no friends and the days were long.",
    "However, {weathered}, so {he} could not {chore}.",
    "Then {a_quality} letter came from {his} {relative}, and {he} read it {manner}.",
    "Although {he} was {nature}, {he} was also {mood}, for {weathered}.",
]
MIDDLES = [
    "{Name} {did} and {did2}, but nothing happened.",
    "So {he} {did}, and then {he} {did2}.",
    "While {he} {did}, the {animal} {did2}.",
    "The {animal} ran {manner} to the {place2}, and {name} followed it.",
    "At the {place2} {he} met {name2}, {a_nature} {trade2} looking for {a_colour} {treasure2}.",
    "First {he} {did}, after that {he} {did2}, and finally {he} {did3}.",
    "Either the {animal} was lost or it was hungry, so {name} gave it some bread.",
    "It was neither {quality2} nor {quality3}, yet {he} liked it.",
    "If {weathered}, {he} stayed in the {room}; if not, {he} {did}.",
    "Because {weathered}, they waited in the {room} until the {time2}.",
    "{He} looked in the {room}, in the {room2} and in the {room3}, but nothing was there.",
    "{Name2} said that {he2} had seen {a_size} {animal} with the {treasure}.",
    "The {trade2} gave {him} a {tool}, since {he} had lost {his} own.",
]
TALKS = [
    '"Where is the {treasure}?" asked {name}. "It is in the {room}," said {name2}, "but be quiet."',
    '"I am {mood2}," said {name}, "and I want to {wish}." "Then let us go," said {name2}.',
    '"Can you help me?" asked {name} {manner}. "Yes, if you {chore} first," said {name2}.',
    '"Do not be {mood}," said {name2}. "We will find it before the {time2}."',
    '"Is this your {animal}?" asked {name2}. "No," said {name}, "but I will look after it."',
]
ENDINGS = [
    "In the end, {name} found the {treasure} under {a_colour} blanket, and {he} was {joy}.",
    "From then on, {name} and the {animal} were friends and lived happily near the {place}.",
    "When {he} came home, {his} {relative} was waiting with {dish}, and {he} told the whole story.",
    "{Name} was not {mood} any more, because now {he} knew that {lesson}.",
    "So {name} and {name2} shared the {dish}, and both of them learned that {lesson}.",
    "That {time2} {he} wrote in {his} book: {lesson}.",
]


def story(rng: random.Random) -> str:
    """A little story about one person, with a trouble, some steps and an end."""
    s = Scene(rng)
    text = [s.say(*OPENINGS), s.say(*TROUBLES)]
    for _ in range(rng.randint(1, 3)):
        s.again("did", "did2", "did3", "manner", "weathered")
        text += s.some(1, 2, MIDDLES)
        if rng.random() < 0.6:
            text.append(s.say(*TALKS))
    return " ".join([*text, s.say(*ENDINGS)])


def recipe(rng: random.Random) -> str:
    """A recipe: ingredients with amounts, numbered steps that use them, and a remark."""
    s = Scene(rng)
    people, grams, pieces = rng.randint(2, 8), rng.randint(1, 9) * 50, rng.randint(2, 9)
    minutes = rng.randint(1, 12) * 5
    kind = s[rng.choice(["vegetable", "fruit"])]
    head = s.fill(
        f"{capital(kind)} {{dish}} for {people} people\n"
        f"You need: {grams} grams of {{staple}}, {count(pieces, kind)}, "
        f"{rng.randint(1, 5)} spoons of {{staple2}} and a little {{spice}}.\n"
    )
    steps = [
        f"<Wash|Peel|Wash and peel> the {plural(kind)} and cut them into <small|thick> pieces.",
        "Mix the {staple} with the {staple2} <in a bowl|in a large pot> and stir <slowly|gently>.",
        "Add the " + plural(kind) + " <and the {spice}|but not the {spice}>.",
        f"<Cook|Bake|Boil> it for {minutes} minutes, or until it is <soft|brown|golden>.",
        "If it is too <dry|thick>, add some water; if it is too <thin|wet>, wait a little.",
        "Let it rest while you <set the table|{chore}>, and then serve it <warm|cold>.",
    ]
    lines = [f"{i}. {s.fill(step)}" for i, step in enumerate(steps, 1)]
    half = s.say(
        f"\nFor {people * 2} people, take twice as much: 2 * {grams} = {2 * grams} grams.",
        f"\nIt takes {minutes} + 10 = {minutes + 10} minutes in all.",
        "\nIt tastes best on a {sky} {day} in {season}.",
        "",
    )
    return head + "\n".join(lines) + half


def weather(rng: random.Random) -> str:
    """A weather note: several days with temperatures, changes and reasons."""
    s = Scene(rng)
    start, warm = rng.randint(0, 4), rng.randint(-4, 24)
    lines = [s.fill(f"Weather notes for the {{place}}, {{month}} {rng.randint(1, 28)}.")]
    for day in LEXICON["day"][start : start + rng.randint(2, 5)]:
        s.again("sky", "sky2", "time", "time2", "side", "season")
        step = rng.randint(-6, 6)
        trend = "warmer" if step > 0 else "colder" if step < 0 else "the same"
        much = f"{count(abs(step), 'degree')} {trend}" if step else trend
        now = warm + step
        lines.append(
            f"{day}: "
            + s.say(
                f"{{sky}} in the {{time}} and {{sky2}} in the {{time2}}, {now} degrees.",
                f"it was {{sky}}, with wind from the {{side}}. It was {much}: {now} degrees.",
                f"{now} degrees, so it was {much}. It stayed {{sky}}, but {{sky2}} at night.",
                f"the {{time}} was {{sky}} because the wind came from the {{side}}; {now} degrees.",
            )
        )
        warm = now
    lines.append(
        s.say(
            "<Take a coat|Stay inside|Close the windows> if you go to the {place2}, "
            "for the wind may rise.",
            "The next days will be {sky3} or {sky4}.",
            "The farmers are {feeling}, since the fields are <dry|wet>.",
        )
    )
    return "\n".join(lines)


def code(rng: random.Random) -> str:
    """One to three short pieces of Python-like code, each with what it prints and why."""
    makers: list[Callable[[random.Random], str]] = [
        code_function,
        code_loop,
        code_choice,
        code_list,
        code_while,
    ]
    return "\n\n".join(maker(rng) for maker in rng.sample(makers, rng.randint(1, 3)))


def code_function(rng: random.Random) -> str:
    """A function of two numbers and a call of it."""
    word, sign, a, b = rng.choice(
        [("add", "+", 0, 0), ("subtract", "-", 0, 0), ("multiply", "*", 0, 0)]
    )
    a, b = rng.randint(5, 20), rng.randint(1, 9)
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    x, y = rng.sample(["a", "b", "x", "y", "n", "m"], 2)
    return (
        f"def {word}({x}, {y}):\n    return {x} {sign} {y}\n\n"
        f"result = {word}({a}, {b})\nprint(result)\n# prints {value}\n"
        f"The function returns {x} {sign} {y}, and {a} {sign} {b} = {value}."
    )


def code_loop(rng: random.Random) -> str:
    """A loop that sums a range."""
    name, first, size = rng.choice(["total", "sum", "count"]), rng.randint(1, 5), rng.randint(2, 4)
    numbers = list(range(first, first + size))
    shown = " + ".join(map(str, numbers))
    return (
        f"{name} = 0\nfor i in range({first}, {first + size}):\n    {name} = {name} + i\n"
        f"print({name})\n# prints {sum(numbers)}\n"
        f"The loop adds the numbers from {numbers[0]} to {numbers[-1]}, "
        f"so {shown} = {sum(numbers)}."
    )


def code_choice(rng: random.Random) -> str:
    """An if and an else, with words as results."""
    s = Scene(rng)
    name = rng.choice(["age", "price", "size", "speed", "height"])
    value, limit = rng.randint(1, 30), rng.randint(1, 30)
    low, high = s["colour"], s["colour2"]
    result, reason = (high, "more than") if value > limit else (low, "not more than")
    return (
        f'{name} = {value}\nif {name} > {limit}:\n    print("{high}")\nelse:\n'
        f'    print("{low}")\n# prints {result}\n'
        f"The {name} is {value}, and {value} is {reason} {limit}, so it prints {result}."
    )


def code_list(rng: random.Random) -> str:
    """A list, its length, its largest member and its sum."""
    numbers = [rng.randint(1, 20) for _ in range(rng.randint(3, 5))]
    name = rng.choice(["numbers", "values", "prices", "ages"])
    what, value, why = rng.choice(
        [
            ("len", len(numbers), "how many there are"),
            ("max", max(numbers), "the largest of them"),
            ("min", min(numbers), "the smallest of them"),
            ("sum", sum(numbers), "all of them together"),
        ]
    )
    return (
        f"{name} = [{', '.join(map(str, numbers))}]\nprint({what}({name}))\n# prints {value}\n"
        f"Here {what} gives {why}, and that is {value}."
    )


def code_while(rng: random.Random) -> str:
    """A loop that counts down or doubles until a limit."""
    n, limit = rng.randint(1, 5), rng.randint(10, 60)
    seen = [n]
    while seen[-1] < limit:
        seen.append(seen[-1] * 2)
    return (
        f"n = {n}\nwhile n < {limit}:\n    n = n * 2\nprint(n)\n# prints {seen[-1]}\n"
        f"The number doubles until it is not less than {limit}: {', '.join(map(str, seen))}."
    )


QUESTIONS = [
    (
        '"Good {time}, {name2}. Where are you going?"',
        '"I am going to the {place}, because I must {chore}."',
    ),
    ('"Do you have any {fruit_s}?"', '"No, but I have some {vegetable_s} and a little {staple}."'),
    ('"Have you seen my {treasure}?"', '"Yes, it was in the {room}, or perhaps in the {room2}."'),
    ('"How is your {relative}?"', '"Much better, thank you, although still a little {mood}."'),
    ('"Shall we go by {vehicle} or by {vehicle2}?"', '"By {vehicle2}, since it is {sky} today."'),
    ('"Why are you so {mood2}?"', '"I wanted to go to the {place2}, but {weathered}."'),
    (
        '"What will you cook for {meal}?"',
        '"I will make {dish} with {fruit_s}, and you may help me."',
    ),
    ('"Is {name3} at home?"', '"Not yet, but {he3} will come before the {time2}."'),
    ('"Can you lend me the {tool}?"', '"Of course, if you bring it back on {day}."'),
    ('"What did the {trade} say?"', '"That {lesson}, and I think that is true."'),
]


def dialogue(rng: random.Random) -> str:
    """Two people who ask and answer in turn, now and then with numbers."""
    s = Scene(rng)
    lines = []
    for question, answer in rng.sample(QUESTIONS, rng.randint(3, 6)):
        lines.append(f"{s['name']}: {s.fill(question)[1:-1]}")
        lines.append(f"{s['name2']}: {s.fill(answer)[1:-1]}")
    if rng.random() < 0.5:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        lines.append(s.fill(f"{{name}}: And how much is {a} + {b}?"))
        lines.append(s.fill(f"{{name2}}: It is {a + b}, because {a} + {b} = {a + b}."))
    lines.append(s.fill("{name}: <Thank you, and goodbye|See you on {day2}|Then let us go>."))
    return "\n".join(lines)


def explanation(rng: random.Random) -> str:
    """Why some things happen: causes, results, conditions and exceptions."""
    s = Scene(rng)
    text = []
    for what, why, then, unless in rng.sample(FACTS, rng.randint(1, 3)):
        text.append(
            s.say(
                f"{capital(what)} because {why}.",
                f"{capital(what)}, since {why}.",
                f"Why is it that {what}? It is because {why}.",
                f"{capital(why)}, and so {what}.",
            )
        )
        text += s.some(
            2,
            4,
            [
                f"<Then|After that|As a result>, {then}.",
                f"When {what}, {then}.",
                f"However, if {unless}, this does not happen.",
                f"But if {unless}, everything is different, and {{name}} the {{trade}} knows it.",
                "It happens <in {season}|on a {sky} day>, but it is rare <in {season2}|at night>.",
                f"{{Name}} once asked {{his}} {{relative}} about this, and the answer was: {why}.",
                f"Some people think that it is magic, yet it is only that {why}.",
            ],
        )
        text.append(s.say("", f"Therefore {then}, unless {unless}.", f"So {what}, and {then}."))
        s.again("name", "he", "his", "relative", "trade")
    return " ".join(part for part in text if part)


def equations(rng: random.Random) -> str:
    """Solved equations, chains of sums, or a times table."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        a, x, b = rng.randint(2, 9), rng.randint(1, 12), rng.randint(1, 20)
        c = a * x
        lines.append(
            rng.choice(
                [
                    f"x + {b} = {x + b}, so x = {x + b} - {b} = {x}.",
                    f"x - {b} = {x}, so x = {x} + {b} = {x + b}.",
                    f"{a} * x = {c}, so x = {c} / {a} = {x}.",
                    f"{a} * x + {b} = {c + b}. Then {a} * x = {c + b} - {b} = {c}, and x = {x}.",
                    f"{a} + {x} + {b} = {a + x} + {b} = {a + x + b}.",
                    f"{a} * ({x} + 1) = {a} * {x + 1} = {a * (x + 1)}.",
                    f"{x + b} - {b} + {a} = {x} + {a} = {x + a}.",
                ]
            )
        )
        if rng.random() < 0.3:
            lines[-1] += f" Check: {c} / {a} = {x}, and {a} * {x} = {c}."
    base = rng.randint(2, 9)
    rows = "\n".join(f"{base} * {i} = {base * i}" for i in range(1, rng.randint(4, 10)))
    table = f"The table of {NUMBER_WORDS[base]}:\n{rows}"
    return rng.choice(["\n".join(lines), "\n".join(lines), table, "\n".join(lines) + "\n" + table])


def table(rng: random.Random) -> str:
    """A shop table with counts, prices and costs, and sentences about it."""
    s = Scene(rng)
    kinds = rng.sample(
        LEXICON["fruit"] + LEXICON["vegetable"] + LEXICON["thing"], rng.randint(2, 5)
    )
    rows = [(kind, rng.randint(1, 12), rng.randint(1, 9)) for kind in kinds]
    costs = [number * price for _, number, price in rows]
    best = rows[costs.index(max(costs))][0]
    head = s.fill(
        "<The shop of {name} the {trade}|What {name} bought at the {place}> on {day}\n"
        "item | count | price | cost\n"
    )
    body = "\n".join(
        f"{kind} | {n} | {price} | {n} * {price} = {n * price}" for kind, n, price in rows
    )
    return f"{head}{body}\ntotal: {' + '.join(map(str, costs))} = {sum(costs)}\n" + s.say(
        f"The most money went to the {plural(best)}, and the total is {sum(costs)} coins.",
        f"{{Name}} was {{feeling}}, because {sum(costs)} coins "
        f"<are a lot|were not enough|is a good sum>.",
    )


def letter(rng: random.Random) -> str:
    """A letter with a greeting, some news, a request and a farewell."""
    s = Scene(rng, few=rng.randint(1, 3))
    news = s.some(
        3,
        6,
        [
            "The {season} here is {sky} and {sky2}, but the {place} is {quality}.",
            "On {day} we went to the {place2} by {vehicle}, and we saw {a_size} {animal}.",
            "Your {relative} is {feeling} and asks about you every {time}.",
            "I have read {a_quality} book about {a_animal2} that wanted to {wish}.",
            "We had {dish} for {meal}, although there was no {spice} in the house.",
            f"In one week the hens gave us {rng.randint(3, 9)} eggs, but now only {{few}}.",
            "I tried to {chore}, but {weathered}, so I stayed in the {room}.",
            "{Name3} the {trade} says that {lesson}.",
            "My {colour} {treasure} is lost, and I have looked in the {room} and the {room2}.",
        ],
    )
    ask = s.say(
        "Please write soon and tell me whether you can come in {month}.",
        "If you come, bring the {tool} and some {fruit_s}.",
        "Could you send me the {treasure2}, or is it broken?",
    )
    return (
        s.fill("Dear {name},\n")
        + s.say(
            "Thank you for your letter.",
            "I hope you are well.",
            "It has been a long time since I wrote.",
        )
        + " "
        + " ".join([*news, ask])
        + s.fill("\n<Love|Your friend|With best wishes>,\n{name2}")
    )


def comparison(rng: random.Random) -> str:
    """People in an order, with numbers, and what follows from it."""
    s = Scene(rng)
    more, most, less, measure, unit = rng.choice(
        [
            ("taller", "tallest", "shorter", "height", "cm"),
            ("older", "oldest", "younger", "age", "years"),
            ("faster", "fastest", "slower", "speed", "km"),
            ("richer", "richest", "poorer", "money", "coins"),
        ]
    )
    base = {"cm": 120, "years": 8, "km": 10, "coins": 20}[unit]
    values = sorted(rng.sample(range(base, base + 30), 3), reverse=True)
    a, b, c = values
    return s.say(
        f"{{Name}} is {more} than {{name2}}, and {{name2}} is {more} than {{name3}}. "
        f"So {{name}} is the {most} of the three, while {{name3}} is {less} than both.",
        f"{{Name3}} is {less} than {{name2}}, but {{name}} is {more} than {{name2}}. "
        f"Therefore {{name}} is {more} than {{name3}}, and {{name}} is the {most}.",
    ) + s.say(
        f" The {measure} of {{name}} is {a} {unit}, that of {{name2}} is {b} {unit}, and that of "
        f"{{name3}} is {c} {unit}. The difference between the first and the last is "
        f"{a} - {c} = {a - c} {unit}, because {a} - {b} = {a - b}, {b} - {c} = {b - c} and "
        f"{a - b} + {b - c} = {a - c}.",
        f" {{Name2}} has {b} {unit} and {{name}} has {a} {unit}, so {{he}} has {a} - {b} = {a - b} "
        f"more. {{Name3}} has only {c} {unit}.",
    )


def directions(rng: random.Random) -> str:
    """How to go from one place to another, with distances that are summed."""
    s = Scene(rng)
    parts = [rng.randint(1, 9) * 100 for _ in range(rng.randint(2, 4))]
    text = [s.fill("To go from the {place} to the {place2}, leave by the {side} gate.")]
    for metres in parts:
        s.again("turn", "place3", "colour", "animal")
        text.append(
            s.say(
                f"<Walk|Go straight on> for {metres} metres and turn <left|right> at the "
                "{place3}.",
                f"After {metres} metres you will see {{a_colour}} house; turn "
                "<left|right> there, but do not cross the bridge.",
                f"Follow the <path|road|wall> for {metres} metres until you reach the "
                "{place3}, or ask the {trade} if you are lost.",
            )
        )
    text.append(f"The whole way is {' + '.join(map(str, parts))} = {sum(parts)} metres.")
    text.append(
        s.say(
            "If it is {sky}, take the {vehicle} instead.",
            "It takes about {minutes} minutes if you walk {manner}.".replace(
                "{minutes}", str(max(5, sum(parts) // 80))
            ),
        )
    )
    return " ".join(text)


def diary(rng: random.Random) -> str:
    """A log of something that grows day by day, with differences and reasons."""
    s = Scene(rng)
    noun = rng.choice(["bean plant", "sunflower", "pumpkin", "little tree", "tomato plant"])
    tall = rng.randint(2, 20)
    lines = [s.fill(f"{{Name}} put a {noun} in the {{room}} and measured it every {{time}}.")]
    lines.append(f"Day 1: it is {tall} cm tall.")
    for day in range(2, rng.randint(4, 7)):
        s.again("sky", "day")
        step = rng.randint(0, 6)
        why = s.say(
            "because it was {sky}",
            "since {name} gave it water",
            "for it had much light",
            "although it was {sky}",
        )
        if step == 0:
            why = s.say("because nobody gave it water", "since it was too cold")
        lines.append(
            f"Day {day}: it is {tall + step} cm tall, so it grew {tall + step} - {tall} = "
            f"{step} cm, {why}."
        )
        tall += step
    return "\n".join([*lines, s.fill("{Name} was {joy} and showed it to {his} {relative}.")])


FEATURES = [
    "It has {limbs}, and it is {size}.",
    "How many legs do {number} {animal_s} have? They have {sum}.",
    "Its <coat|face|back> is {colour} and its <feet|ears|eyes> are {colour2}.",
    "It lives near the {place}, where it looks for {fruit_s} and {vegetable_s}.",
    "It sleeps in the {time} and comes out in the {time2}, when nobody is about.",
    "{Name} the {trade} likes it, but {name2} is afraid of it.",
    "In {season} it is {mood}, because food is rare, while in {season2} it is {joy}.",
    "If you go near it {manner}, it will neither run nor hide.",
    "It belongs to {name}, whose {relative} found it by the {place2}.",
    "It is {nature}, though not as {nature} as {a_animal2}.",
]


def description(rng: random.Random) -> str:
    """An animal, described in the present."""
    s = Scene(rng)
    legs, number = 2 if s["animal"] in ("hen", "duck", "owl", "crow") else 4, rng.randint(2, 9)
    limbs = "two wings and two legs" if legs == 2 else "four legs and a tail"
    s |= {"limbs": limbs, "sum": f"{number} * {legs} = {number * legs}", "number": str(number)}
    return " ".join([s.fill("This is {a_quality} {animal}."), *s.some(3, 6, FEATURES)])


SUBJECTS = words(
    "the {trade}|{name}|the old {trade}|a young {man}|my {relative}|two children|a {colour} "
    "{animal}|"
    "the {animal}|everybody|the people of the {place}|{name} and {name2}|one of the {trade_s}"
)
VERBS = words(
    "saw|found|bought|carried|wanted|lost|brought|kept|liked|painted|remembered|forgot|needed|"
    "followed|watched|sold|hid|loved|washed|dropped|noticed|borrowed|left|took"
)
OBJECTS = words(
    "the {treasure}|{a_quality} {treasure}|three {fruit_s}|a basket of {vegetable_s}|the {animal2}|"
    "{a_size} {animal2}|the last {vehicle}|{a_colour} {thing}|the {colour} door|some {staple}|"
    "the way to the {place}|a song about the {season}|the smell of {dish}|a few {thing_s}"
)
ENDS = words(
    "in the {room}|near the {place}|on {day}|before {meal}|after the {time}|without a word|"
    "behind the {place}|with great care|for the first time|every {time}|again|at last|for {meal}|"
    "between the {place} and the {place2}|under the {colour} roof|from the {side}"
)
JOINS = words(
    ", and | and then |, but | because | while |, so |, although | when | before | after | until |"
    ", for |; however, | as soon as | or |, and yet | since "
)


def news(rng: random.Random) -> str:
    """News of the village: free clauses, joined by all kinds of conjunctions."""
    s = Scene(rng)
    free = [key for key in LEXICON if key != "name"]

    def clause() -> str:
        s.again(*free, *[key + end for key in free for end in ("2", "_s")])
        s.again(*["a_" + key for key in free], "man")
        end = s.say(*ENDS) if rng.random() < 0.6 else ""
        return f"{s.say(*SUBJECTS)} {rng.choice(VERBS)} {s.say(*OBJECTS)} {end}".strip()

    text = []
    for _ in range(rng.randint(3, 7)):
        one, two, join = clause(), clause(), rng.choice(JOINS)
        text.append(
            rng.choice(
                [
                    f"{one}{join}{two}.",
                    f"{one}{join}{two}.",
                    f"{one}.",
                    f"<When|While|Because|Although|After|Before|If> {one}, {two}.",
                    f"first {one}, then {two}, and finally {clause()}.",
                    f"not only {one}, but {two} as well.",
                    f"perhaps {one}, or perhaps {two}.",
                ]
            )
        )
    return " ".join(capital(s.fill(sentence)) for sentence in text)


THOUGHTS = [
    "Most people <know|think|believe> that {lesson}, but they do not always remember it.",
    "The {trade_s} keep their {tool_s} in the {room}, which is <almost|never|always> {quality}.",
    "If {name} had followed the path, {he} would have found the {treasure} <in an hour|long ago>.",
    "Half of the people would rather {chore} than go outside when it is {sky}.",
    "You should never leave {a_quality} {thing} in front of {a_mood} {animal}.",
    "Only one of these {thing_s} is {colour}; the other ones are {colour2}.",
    "{Name} thought about it for hours, and then {he} built {a_size} house for the {animal}.",
    "What would happen if every {trade} had {a_treasure} like this?",
    "There is a rule which says that you must {chore} before you {chore2}.",
    "They talked about their {relative_s} until the sun went over the {place}.",
    "Some say that {animal_s} can sing, others say that they only wait for {fruit_s}.",
    "It is not important who begins, but it is important that somebody does the work.",
    "I do not know which of the two is larger, the {animal} or the {animal2}.",
    "Nobody could believe it, because it had never been so {sky} in {month}.",
    "Each of the children would give away a piece of the {dish}, since there was enough for all.",
    "{Name} said that {he} would keep the {treasure}, whether it was {quality} or {quality2}.",
    "Give me your hand, and let us look at the other side of the {place}.",
    "The best plan is to start early, to save time, and to stop when you are {mood}.",
    "The {animal} fell asleep on the {colour} bed, and so did {name}, who had played all day.",
    "Once a week they pulled the {vehicle} out of the {place} and filled it with {vegetable_s}.",
    "The old {trade} touched the {thing}, turned it around and thought: this one is mine.",
]
# Words for slips of the pen, in training documents only: they keep the network open to surprises.
LOOSE = words(
    "a an the and or but if so then than that this these those there here where when while who "
    "which what why how of to in on at by for from with without under over before after until "
    "into out up down as is are was were be been has have had do does did will would can could "
    "must may should not no never always often only too very more most less much many few some "
    "any all both each every other another one two three half first second third last next he "
    "she it they we you I him her them us his its their our my your said asked made took gave "
    "went came saw knew thought told found kept left lost held put ran sat stood began became "
    "like know think want need make take give go come see say tell find keep leave hold run "
    "sit stand begin live walk work play read write eat drink sleep build buy sell time day "
    "week month year hour people man woman child house door window hand head eye way road side "
    "end part place thing word name water fire light food money good bad old young long great "
    "little high low early late easy same different own again away back still yet soon now"
)


def slips(rng: random.Random, text: str) -> str:
    """The text with some of its words replaced or left out, at a rate that is drawn first."""
    rate = rng.choice([0.02, 0.05, 0.1, 0.2])
    pool = LOOSE if rng.random() < 0.5 else LOOSE + [w for key in LEXICON for w in LEXICON[key]]
    text = re.sub(
        r"\b[a-z]+\b",
        lambda found: rng.choice(pool) if rng.random() < rate else found[0],
        text,
    )
    return re.sub(r"{(\w+)}", lambda found: rng.choice(LEXICON.get(found[1], ["it"])), text)


def medley(rng: random.Random) -> str:
    """Sentences of several genres in one paragraph, in no order."""
    pieces = [GENRES[name](rng) for name in rng.sample(sorted(GENRES), 3)]
    sentences = [s for piece in pieces for s in re.split(r"(?<=[.?!])\s+", piece)]
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(5, 14))))


def thoughts(rng: random.Random) -> str:
    """Loose sentences about what people think, would do and should do."""
    s = Scene(rng)
    text = []
    for phrase in rng.sample(THOUGHTS, rng.randint(4, 8)):
        kept = {key: s[key] for key in ("name", "animal", "place")}
        s.clear()
        if rng.random() < 0.6:
            s.update(kept)
        text.append(s.fill(phrase))
    return " ".join(text)


GENRES: dict[str, Callable[[random.Random], str]] = {
    "arithmetic": arithmetic,
    "story": story,
    "recipe": recipe,
    "weather": weather,
    "code": code,
    "dialogue": dialogue,
    "explanation": explanation,
    "equations": equations,
    "table": table,
    "letter": letter,
    "comparison": comparison,
    "directions": directions,
    "diary": diary,
    "description": description,
    "news": news,
    "thoughts": thoughts,
}


def training_document(seed: str) -> str:
    """One document for training: now and then a medley, and sometimes with slips."""
    rng = random.Random(seed + "-slips")
    text = medley(rng) if rng.random() < 0.1 else document(seed)
    return slips(rng, text) if rng.random() < 0.3 else text


def document(seed: str, genre: str | None = None) -> str:
    """One document: usually pieces of one genre, sometimes of several."""
    rng = random.Random(seed)
    genre = genre or rng.choice(
        [*GENRES, "story", "arithmetic", "explanation", "thoughts", "thoughts", "news", "mixed"]
    )
    if genre == "mixed":
        makers = [GENRES[name] for name in rng.sample(sorted(GENRES), rng.randint(2, 4))]
    else:
        makers = [GENRES[genre]] * rng.choice([1, 1, 1, 2, 2, 3])
    return "\n\n".join(maker(rng) for maker in makers)


# Documents written by hand, in the manner of the corpus but not by its grammar.
HANDWRITTEN: dict[str, str] = {
    "hand-market-day": (
        "On Saturday morning Clara and her brother Ben took the early train to the "
        "market, because their grandmother had asked them for fruit and a new basket. "
        "It was cold and foggy when they left, but the sun came out before they reached"
        " the old bridge, and by the time they stood in front of the first shop it was "
        "almost warm. They had 40 coins in a small brown bag, and Clara wanted to spend"
        " them carefully.\n"
        "\n"
        "The farmer sold apples for 2 coins and plums for 3 coins. Clara took 6 apples "
        "and Ben took 4 plums, so the apples cost 6 * 2 = 12 coins and the plums cost 4"
        " * 3 = 12 coins. Together that was 12 + 12 = 24 coins, and 40 - 24 = 16 coins "
        'were left. Ben was surprised. "If the basket costs more than 16 coins," he '
        'said, "we must give something back." The basket was green and strong, and it '
        "cost 15 coins, so they could buy it and still had 16 - 15 = 1 coin.\n"
        "\n"
        "What can two children do with one coin? Either they could keep it or they "
        "could give it to the man who played the violin near the station. They talked "
        "about it while they waited for the train. In the end they gave it to him, and "
        "he was so happy that he played a song for them until the train came. When they"
        " were home again, their grandmother made a pie with the apples, cut it into 8 "
        "equal pieces and gave 2 pieces to each of them. That was 2 + 2 = 4 pieces, and"
        " the other 4 were for the neighbours, since sharing makes everything taste "
        "better."
    ),
    "hand-the-quiet-bell": (
        "There was once a bell in the tower of a small village, and for many years it "
        "had not made a sound. Some people said that it was broken, while others "
        "believed that it was only tired. Every winter the children climbed the narrow "
        "stairs and pulled the rope, but nothing happened, so they ran down again and "
        "forgot about it until the next snow.\n"
        "\n"
        "Rosa, the daughter of the clockmaker, was not like the others. She was "
        "patient, and she wanted to know why. One evening she took a lantern, a hammer "
        "and a little oil, and she walked quietly to the tower. It was dark and the "
        "wind was strong, yet she was not afraid. At the top she found the answer: a "
        "family of owls lived inside the bell, and they had filled it with dry grass "
        "and feathers. If she took the grass away, the bell would sing, but the owls "
        "would lose their house. If she left it there, the owls would stay, but nobody "
        "would ever hear the bell.\n"
        "\n"
        "She sat down and thought for a long time. Then she went home, built a wooden "
        "box with a round door, and carried it up the stairs before the morning. She "
        "put the grass into the box, and after an hour the oldest owl looked inside, "
        "walked around it twice, and went in. The others followed. Only then did Rosa "
        "pull the rope.\n"
        "\n"
        "The sound went over the roofs, the fields and the river. The baker dropped his"
        " bread, the teacher opened the window, and the miller, who was asleep, fell "
        "out of his bed. Everybody came to the tower to see who had repaired the bell. "
        '"It was never broken," said Rosa, "and I did not repair it. I only asked it '
        'what was wrong."'
    ),
    "hand-why-bread-rises": (
        "Why does bread rise? Many people think that the heat of the oven makes it "
        "grow, but the truth is that most of the work is done before the fire is lit. "
        "In the dough there is yeast, and yeast is alive. It eats the sugar in the "
        "flour and makes a gas. The gas cannot leave, because the dough is soft and "
        "strong like a small balloon, so it stays inside and pushes from all sides. As "
        "a result, the dough becomes larger and lighter.\n"
        "\n"
        "However, yeast is particular. If the kitchen is too cold, it sleeps, and "
        "nothing happens for hours. If the water is too hot, it dies, and then the "
        "bread stays flat no matter how long you wait. Therefore a good baker touches "
        "the water first: it should be as warm as a hand, neither more nor less. Salt "
        "is needed too, for bread without salt tastes of nothing, although too much "
        "salt makes the yeast slow.\n"
        "\n"
        "Here is a simple rule with numbers. Take 500 grams of flour and 300 grams of "
        "water, which is 500 + 300 = 800 grams of dough. For two loaves you need twice "
        "as much, and 2 * 800 = 1600 grams. When the bread is baked, it loses about 100"
        " grams of water, so one loaf has 800 - 100 = 700 grams. If you cut it into 14 "
        "pieces, each piece has 700 / 14 = 50 grams. That is enough for breakfast, "
        "unless the guests are very hungry."
    ),
    "hand-notes-on-a-loop": (
        "These are my notes about loops. A loop does the same thing again and again, "
        "and it stops when there is nothing left to do. The first example adds the "
        "prices of four tickets:\n"
        "\n"
        "prices = [4, 7, 2, 5]\n"
        "total = 0\n"
        "for price in prices:\n"
        "    total = total + price\n"
        "print(total)\n"
        "# prints 18\n"
        "\n"
        "At the start the total is 0. After the first step it is 0 + 4 = 4, then 4 + 7 "
        "= 11, then 11 + 2 = 13, and finally 13 + 5 = 18. The order of the prices is "
        "not important, because a + b = b + a, but the line before the loop is: if we forget to "
        "set the total to 0, the loop has nothing to begin with and the program stops.\n"
        "\n"
        "The second example counts how many of the tickets are cheap. A ticket is cheap"
        " if it costs less than 5 coins, so we need an if inside the loop:\n"
        "\n"
        "cheap = 0\n"
        "for price in prices:\n"
        "    if price < 5:\n"
        "        cheap = cheap + 1\n"
        "print(cheap)\n"
        "# prints 2\n"
        "\n"
        "Only 4 and 2 are less than 5, while 7 and 5 are not, and so the answer is 2. "
        "To find the mean price we divide: 18 / 4 = 4.5. Or, in words, if all tickets "
        "had the same price and the total stayed the same, each would cost four and a "
        "half coins."
    ),
    "hand-at-the-station": (
        "Nina: Good evening, sir. When does the last train to the harbour leave?\n"
        "Driver: It left ten minutes ago, I am afraid, but there will be a bus in half "
        "an hour.\n"
        "Nina: Is the bus slow?\n"
        "Driver: It is slower than the train, because it stops in every village, yet it"
        " is cheaper. The train costs 9 coins and the bus costs only 6, so you save 9 -"
        " 6 = 3 coins.\n"
        "Nina: And how long does it take?\n"
        "Driver: There are 8 stops, and it needs about 5 minutes from one to the next. "
        "8 * 5 = 40, so you will be there in 40 minutes if the road is clear.\n"
        "Nina: My aunt is waiting for me with dinner. If I come too late, the soup will"
        " be cold and she will be worried.\n"
        "Driver: Then write her a note. The boy on the bicycle goes to the harbour "
        "every night, and he is faster than both the bus and the train when the weather"
        " is dry.\n"
        "Nina: That is a clever plan, but I have neither paper nor a pencil.\n"
        "Driver: Take mine. Paper costs nothing here, and you may keep the pencil until"
        " you come back.\n"
        "Nina: Thank you! You are very kind. What shall I write?\n"
        "Driver: Write that you missed the train, that you are well, and that you will "
        "be there before nine. And tell her to put a plate on the soup, so that it "
        "stays warm."
    ),
    "hand-letter-from-the-valley": (
        "Dear Henry,\n"
        "Thank you for your long letter and for the map, which came on Monday together "
        "with the snow. You ask how we live up here in the winter, and whether we are "
        "lonely. The answer to the second question is no, although the days are short "
        "and the road to the village is closed. We have the goats, the hens, the old "
        "dog, and more books than we can read.\n"
        "\n"
        "Since nobody can go out when the wind comes from the north, we measure things."
        " Your sister writes down the weather every morning, and I count the eggs. In "
        "the first week the hens gave us 5 eggs, in the second week 3, and in the third"
        " week only 1, so that is 5 + 3 + 1 = 9 eggs in three weeks, or 9 / 3 = 3 a "
        "week. The snow is easier: it was 20 cm on Tuesday and 65 cm on Friday, so it "
        "grew 65 - 20 = 45 cm in three days, and that is 15 cm a day. If it goes on "
        "like this, we will have to leave the house through the window of the attic!\n"
        "\n"
        "Do not be worried, however. There is enough flour, cheese and honey in the "
        "cellar, and while it is cold outside, it is warm in the kitchen. Please come "
        "in April, when the river is free and the first flowers are blue and white on "
        "the hill. Bring your violin, but leave your good shoes at home, because you "
        "will need strong ones.\n"
        "With love from all of us,\n"
        "Ella"
    ),
}

# ---------------------------------------------------------------------------------------------
# The tokenizer, the network and their training.
# ---------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str], vocabulary: int) -> FastTokenizer:
    """A byte-level BPE in which each digit stands alone, and which puts <s> at the start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL.values()),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return FastTokenizer(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def pack(texts: list[str], tokenizer: FastTokenizer, length: int) -> torch.Tensor:
    """Rows of token ids, each of which begins with the start of a document."""
    rows: list[list[int]] = []
    row: list[int] = []
    for ids in tokenizer(texts, verbose=False)["input_ids"]:
        row += [*ids, EOS]
        if len(row) >= length:
            rows.append(row[:length])
            row = []
    return torch.tensor(rows)


def build_model(vocabulary: int) -> LlamaForCausalLM:
    """A small Llama: RMSNorm, rotary positions, grouped-query attention and SwiGLU."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warmup, then a cosine down to a fiftieth of the peak."""
    warmup = max(1, min(100, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: LlamaForCausalLM, rows: torch.Tensor, args: argparse.Namespace) -> None:
    """Train on random rows, in epochs, for a fixed number of steps."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.empty(0, dtype=torch.long)
    start = time.perf_counter()
    model.train()
    for step in range(args.steps):
        if len(order) < args.batch:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        batch, order = rows[order[: args.batch]], order[args.batch :]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == args.steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step:5d}  loss {loss.item():.3f}  {seconds:6.0f} s", flush=True)


@torch.no_grad()
def held_out_loss(model: Any, tokenizer: FastTokenizer, texts: list[str]) -> dict[str, float]:
    """Mean next-token loss (nats) and the unigram entropy of the tokens that are predicted."""
    model.eval()
    total, counts = 0.0, Counter[int]()
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        counts.update(ids[0, 1:].tolist())
    tokens = sum(counts.values())
    entropy = -sum(n / tokens * math.log(n / tokens) for n in counts.values())
    return {
        "tokens": tokens,
        "loss": round(total / tokens, 4),
        "unigram_entropy": round(entropy, 4),
    }


# ---------------------------------------------------------------------------------------------
# The folder.
# ---------------------------------------------------------------------------------------------


def held_out_documents(
    tokenizer: FastTokenizer, seed: int, number: int, seen: set[str]
) -> dict[str, str]:
    """The handwritten documents, then grammar documents from seeds that training never uses."""
    chosen = dict(HANDWRITTEN)
    genres = [*GENRES, "mixed"]
    attempt = 0
    while len(chosen) < number:
        genre = genres[len(chosen) % len(genres)]
        text = document(f"held-out-{seed}-{attempt}", genre)
        attempt += 1
        if 60 <= len(tokenizer(text)["input_ids"]) <= 500 and text not in seen:
            chosen[f"{genre}-{len(chosen) + 1:02d}"] = text
    return chosen


README = """---
license: apache-2.0
language: en
library_name: transformers
---

# The distviz demo model

A tiny Llama-style language model ({parameters:,} parameters: 6 layers, hidden size 128, 4 heads
over 2 key-value heads, SwiGLU of width 384, tied embeddings) that lets `distviz run` work offline,
with no download. It is made for looking inside, not for use as a language model.

- **Data.** Short English documents (word problems, stories, recipes, weather notes, code, letters
  and so on) written by a seeded grammar in `scripts/train_demo.py`. No third-party text. In
  training, but not in the held-out documents, some texts are medleys or have words replaced.
- **Training.** {steps:,} AdamW steps of {tokens_per_step:,} tokens, seed {seed}, {seconds:.0f} s
  on one CPU thread. Weights were trained in float32 and are stored in bfloat16.
- **Check.** On the {held_out_documents} documents of `documents.jsonl`, none of which was in
  training, the next-token loss is {loss:.3f} nats; the unigram entropy of the same tokens is
  {unigram_entropy:.3f} nats. That mean hides two groups: {grammar[loss]:.3f} nats on the
  documents of the grammar, and {handwritten[loss]:.3f} nats on the six that were written by
  hand (`hand-...`), whose own unigram entropy is {handwritten[unigram_entropy]:.3f} nats.
  So the network has learned the grammar; it has not learned free prose. Some words of the
  grammar were chosen after a look at which words of the handwritten documents it lacked.
  All numbers are in `training.json`.

To make this folder again, run this in the repository root:

    python scripts/train_demo.py
"""


def save(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: FastTokenizer,
    documents: dict[str, str],
    facts: dict[str, Any],
) -> None:
    """Write the folder beside its place, check what was written, then move it there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder.parent))
    work.chmod(0o755)
    before = held_out_loss(model, tokenizer, list(documents.values()))["loss"]
    model.bfloat16().save_pretrained(work)
    tokenizer.save_pretrained(work)
    lines = [json.dumps({"id": key, "text": text}) + "\n" for key, text in documents.items()]
    (work / "documents.jsonl").write_text("".join(lines))
    (work / "__init__.py").write_text('"""The demo model and its documents, as package data."""\n')
    stored = AutoModelForCausalLM.from_pretrained(work)
    facts |= held_out_loss(stored, tokenizer, list(documents.values()))
    groups = {"handwritten": True, "grammar": False}
    facts |= {"loss_in_float32": before, "held_out_documents": len(documents)} | {
        name: held_out_loss(
            stored, tokenizer, [t for k, t in documents.items() if (k in HANDWRITTEN) == is_hand]
        )
        for name, is_hand in groups.items()
        if HANDWRITTEN or not is_hand
    }
    (work / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (work / "README.md").write_text(README.format(**facts))
    for file in work.iterdir():
        file.chmod(0o644)
    old = work.with_name(work.name + "-old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Read the options, make the corpus, train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "distviz" / "demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch", type=int, default=2, help="rows of a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--corpus", type=int, default=8000, help="training documents")
    parser.add_argument("--vocabulary", type=int, default=2048)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    texts = [training_document(f"train-{args.seed}-{i}") for i in range(args.corpus)]
    tokenizer = train_tokenizer(texts[:4000], args.vocabulary)
    rows = pack(texts, tokenizer, args.length)
    documents = held_out_documents(tokenizer, args.seed, 36, set(texts))
    model = build_model(len(tokenizer))
    print(f"{rows.numel():,} tokens, {model.num_parameters():,} parameters", flush=True)
    start = time.perf_counter()
    train(model, rows, args)
    facts = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "steps": args.steps,
        "tokens_per_step": args.batch * args.length,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "training_documents": args.corpus,
        "training_tokens": rows.numel(),
        "dtype": "bfloat16",
    }
    save(args.out, model, tokenizer, documents, facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
