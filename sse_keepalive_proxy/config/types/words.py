"""Small words of help: what was probably meant, what may be written.

Owns the wording of lists and suggestions, so that every message has one manner.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "one_of", "shown"]


def one_of(known: Iterable[str]) -> str:
    """`a, b or c`, in the order given."""
    words = list(known)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def shown(word: str) -> str:
    """A word of the file as one line of a message can hold it."""
    short = word if len(word) <= 64 else f"{word[:64]}…"
    return short if short.isprintable() else ascii(short)


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint that names the known word nearest to `word`; `otherwise` when none is near."""
    # Long words are cut: difflib is quadratic, and no known word is longer than this.
    near = get_close_matches(word.lower()[:64], list(known), n=1, cutoff=0.6)
    return f"did you mean {shown(near[0])}?" if near else otherwise
