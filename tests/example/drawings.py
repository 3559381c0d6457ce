"""The drawings of the example of pictures: one shape on a sheet of paper, and what can be said of it.

Made of integers alone, so that a drawing has the same pixels everywhere.
"""

from __future__ import annotations

import dataclasses

import numpy as np

SIDE = 48
"""Of a drawing, in pixels."""
COLOURS = {
    "red": (214, 40, 40), "green": (34, 139, 60), "blue": (40, 80, 200), "yellow": (240, 190, 20),
    "purple": (130, 50, 160), "black": (30, 30, 30),
}  # fmt: skip
SIZES = {"small": 5, "large": 8}
"""Half a shape's height, in pixels."""
KINDS = ["circle", "ring", "square", "triangle", "cross", "bar"]
PLACES = {
    "at the top left": (0, 0), "at the top": (1, 0), "at the top right": (2, 0),
    "at the left": (0, 1), "in the middle": (1, 1), "at the right": (2, 1),
    "at the bottom left": (0, 2), "at the bottom": (1, 2), "at the bottom right": (2, 2),
}  # fmt: skip
"""Column and row of a sheet that is three high and three wide."""
PAPERS = ["plain", "squared"]


@dataclasses.dataclass(frozen=True)
class Drawing:
    kind: str
    colour: str
    size: str
    place: str
    paper: str
    shift: tuple[int, int]
    """By how many pixels the shape is beside the middle of its place, to the right and down."""

    def pixels(self) -> np.ndarray:
        """(SIDE, SIDE, 3), bytes."""
        y, x = np.mgrid[:SIDE, :SIDE]
        sheet = np.full((SIDE, SIDE, 3), 252)
        if self.paper == "squared":
            sheet[(x % 6 == 2) | (y % 6 == 2)] = (190, 210, 235)
        column, row = PLACES[self.place]
        across = np.abs(x - (8 + 16 * column + self.shift[0]))
        down = y - (8 + 16 * row + self.shift[1])
        half = SIZES[self.size]
        square = (across <= half) & (np.abs(down) <= half)
        distance = across**2 + down**2
        inside = {
            "circle": distance <= half**2,
            "ring": (distance <= half**2) & (distance > (half - 3) ** 2),
            "square": square,
            "triangle": square & (2 * across <= down + half),
            "cross": square & ((across <= 1) | (np.abs(down) <= 1)),
            "bar": square & (np.abs(down) <= half // 3),
        }[self.kind]
        sheet[inside] = COLOURS[self.colour]
        return sheet.astype(np.uint8)

    def colours(self) -> str:
        return f"a {self.size} {self.colour} {self.kind}"

    def places(self) -> str:
        return f"a {self.kind} {self.place}"

    def plainly(self) -> str:
        return f"a {self.kind}"

    def at_length(self) -> str:
        return f"something {self.size} and {self.colour} {self.place} of {self.paper} paper"


def drawing(draw: np.random.Generator, paper: str | None = None) -> Drawing:
    def one(choices) -> str:
        return list(choices)[draw.integers(len(choices))]

    found = Drawing(one(KINDS), one(COLOURS), one(SIZES), one(PLACES), one(PAPERS), tuple(draw.integers(-3, 4, 2).tolist()))
    return dataclasses.replace(found, paper=paper) if paper else found


def drawings(count: int, draw: np.random.Generator, taken: set[Drawing], paper: str | None = None) -> list[Drawing]:
    """New ones, none of which was given out before."""
    found = []
    while len(found) < count:
        made = drawing(draw, paper)
        if made not in taken:
            taken.add(made)
            found.append(made)
    return found
