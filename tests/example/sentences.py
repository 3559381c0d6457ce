"""What the generative example's model reads and writes: sentences about people, animals and things, and three ways to rewrite one.

A `Sentence` is kept in its parts, so that its past tense, its question and its opposite are built and not guessed: every
answer is right by construction. `story` writes the plain text that the base model learns to continue: one event told over
and over, after `Yesterday` in the past, after `Instead` turned round. The base so learns each way of rewriting, but from a
word that comes right before it; a heading (`Past:`, `Question:`, `Opposite:`, ...) only says which words are likely. What an
adapter learns is to take the heading for an instruction. A word that stands in two tables would make an answer
ambiguous; the tables are checked when they are loaded.
"""

from __future__ import annotations

import dataclasses

import numpy as np


def _split(text: str) -> list[list[str]]:
    """`a/b c/d` as [[a, b], [c, d]]."""
    return [entry.split("/") for entry in text.split()]


OWNERS = "the my our your".split()
BEINGS = "dog cat horse bird fox bear girl boy farmer teacher doctor baker sailor painter king queen".split()
BEING_PAIRS = _split("small/big old/young happy/sad slow/fast tall/short rich/poor quiet/loud weak/strong")
THINGS = "box table chair lamp bag boat bowl coat door hat ladder letter".split()
THING_PAIRS = _split("heavy/light warm/cold clean/dirty wet/dry cheap/expensive dark/bright")
DOES = _split(
    "sleep/sleeps/slept run/runs/ran sing/sings/sang wait/waits/waited walk/walks/walked stand/stands/stood sit/sits/sat "
    "work/works/worked play/plays/played dance/dances/danced"
)
"""Verbs without an object: as after `does`, in the present, in the past."""
DOES_TO = _split(
    "see/sees/saw find/finds/found take/takes/took carry/carries/carried wash/washes/washed bring/brings/brought "
    "hold/holds/held lose/loses/lost hide/hides/hid draw/draws/drew push/pushes/pushed paint/paints/painted "
    "leave/leaves/left catch/catches/caught keep/keeps/kept choose/chooses/chose"
)
"""Verbs with an object."""
PLACES = [
    f"{where} the {what}"
    for where, what in _split(
        "in/garden at/market near/river behind/house under/tree on/bridge in/kitchen by/lake at/school on/hill"
    )
]
HEADINGS = "Past Question Opposite Story News Diary".split()
TOPICAL = 0.8
"""How often a word of a text under a heading is one of the heading's own."""

OPPOSITE = {word: other for pair in BEING_PAIRS + THING_PAIRS for word, other in (pair, pair[::-1])}
_WORDS = [*BEINGS, *THINGS, *OPPOSITE, *(form for verb in DOES + DOES_TO for form in verb)]
if len(OPPOSITE) != 2 * len(BEING_PAIRS + THING_PAIRS) or len(set(_WORDS)) != len(_WORDS):
    raise ValueError("a word stands twice in the tables of sentences.py")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """`The old farmer finds the heavy box.` in its parts; a part that is not there is empty."""

    owner: str
    quality: str
    being: str
    verb: tuple[str, str, str]
    object_quality: str = ""
    object: str = ""
    place: str = ""

    def _written(self, verb: str, before: str = "", end: str = ".") -> str:
        object = ("the", self.object_quality, self.object) if self.object else ()
        words = (before, self.owner, self.quality, self.being, verb, *object, self.place)
        text = " ".join(word for word in words if word)
        return text[0].upper() + text[1:] + end

    def present(self, before: str = "") -> str:
        return self._written(self.verb[1], before)

    def past(self, before: str = "") -> str:
        return self._written(self.verb[2], before)

    def question(self) -> str:
        return self._written(self.verb[0], before="does", end="?")

    def opposite(self, before: str = "") -> str:
        """The sentence with every adjective turned round."""
        turned = {"quality": OPPOSITE[self.quality], "object_quality": OPPOSITE.get(self.object_quality, "")}
        return dataclasses.replace(self, **turned).present(before)


TASKS = {
    "past": ("Past", Sentence.past),
    "question": ("Question", Sentence.question),
    "opposite": ("Opposite", Sentence.opposite),
}
"""By task its heading, and how the answer is made."""


class Draw:
    """Choices from one seed: numpy's PCG64, whose numbers are the same on every machine."""

    def __init__(self, seed: int):
        self.bits = np.random.Generator(np.random.PCG64(seed))

    def chance(self, probability: float) -> bool:
        return bool(self.bits.random() < probability)

    def one(self, choices):
        return choices[int(self.bits.integers(len(choices)))]

    def sentence(self, heading: str = "") -> Sentence:
        """A sentence; under a heading it mostly has the heading's words, which are every sixth of each table."""

        def one(table):
            own = heading and self.chance(TOPICAL)
            return self.one(table[HEADINGS.index(heading) :: len(HEADINGS)] if own else table)

        parts = {"owner": self.one(OWNERS), "quality": self.one(one(BEING_PAIRS)), "being": one(BEINGS)}
        if self.chance(0.4):
            return Sentence(**parts, verb=tuple(one(DOES)), place=one(PLACES))
        objects, pairs = (BEINGS, BEING_PAIRS) if self.chance(0.3) else (THINGS, THING_PAIRS)
        return Sentence(
            **parts,
            verb=tuple(one(DOES_TO)),
            object_quality=self.one(one(pairs)) if self.chance(0.7) else "",
            object=one(objects),
        )


def story(draw: Draw, headings: list[str] = HEADINGS) -> str:
    """Three or four sentences of plain text about one event, mostly under one of the headings."""
    heading = draw.one(headings) if draw.chance(0.8) else ""
    sentence = draw.sentence(heading)
    ways = [
        sentence.present(),
        sentence.present("again"),
        sentence.past("yesterday"),
        sentence.question(),
        sentence.opposite("instead"),
    ]
    lines = [f"{heading}:"] if heading else []
    if draw.chance(0.7):
        lines.append(sentence.present())
    return " ".join(lines + [draw.one(ways) for _ in range(3)])


def pairs(task: str, count: int, draw: Draw, taken: set[Sentence]) -> list[tuple[str, str]]:
    """`count` new (prompt, completion) pairs of a task; no sentence from `taken`, to which they are added."""
    heading, answer = TASKS[task]
    found: list[tuple[str, str]] = []
    while len(found) < count:
        sentence = draw.sentence()
        if sentence not in taken:
            taken.add(sentence)
            found.append((f"{heading}: {sentence.present()}", f" {answer(sentence)}"))
    return found
