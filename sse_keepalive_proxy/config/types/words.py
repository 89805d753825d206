"""The wording of lists and suggestions in messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "one_of", "shown"]


def one_of(known: Iterable[str]) -> str:
    """Return `a, b or c`, in the given order."""
    words = list(known)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def shown(word: str) -> str:
    """Return a word of the file, shortened and escaped for a message on one line."""
    short = word if len(word) <= 64 else f"{word[:64]}…"
    return short if short.isprintable() else ascii(short)


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return a hint with the known word that is most similar to `word`, or `otherwise`."""
    # Cut long words: difflib is quadratic, and all known words are shorter.
    near = get_close_matches(word.lower()[:64], list(known), n=1, cutoff=0.6)
    return f"did you mean {shown(near[0])}?" if near else otherwise
