"""The hint for a misspelt word."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean X?", or the list of what is known."""
    choices = sorted(filter(None, known))
    close = get_close_matches(word, choices, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(choices)}"
