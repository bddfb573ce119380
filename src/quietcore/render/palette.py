"""Colours of owners, from the palette of Masataka Okabe and Kei Ito, which colour-blind people can tell apart.

Its two reds come last: red is for trouble. A colour is never alone: the same thing is said by a letter.
"""

from __future__ import annotations

from typing import Final

OWNERS: Final = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#0072b2", "#d55e00")
"""Sky blue, orange, bluish green, yellow, reddish purple, blue, vermillion."""
RESET: Final = "\x1b[0m"
_DARKEST_UNDER_BLACK: Final = 110
"""Below this luminance (of 255) white text is easier to read."""


def owner_fill(index: int) -> str:
    """The colour of the n-th owner as #rrggbb; they repeat after seven."""
    return OWNERS[index % len(OWNERS)]


def text_on(fill: str) -> str:
    """Black or white, whichever can be read on this colour."""
    red, green, blue = _rgb(fill)
    return "#000000" if (2126 * red + 7152 * green + 722 * blue) // 10_000 >= _DARKEST_UNDER_BLACK else "#ffffff"


def ansi_fill(index: int) -> str:
    """The escape sequence that fills with the n-th owner's colour and writes readably on it."""
    red, green, blue = _rgb(owner_fill(index))
    letters = 30 if text_on(owner_fill(index)) == "#000000" else 97
    return f"\x1b[{letters};48;2;{red};{green};{blue}m"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
