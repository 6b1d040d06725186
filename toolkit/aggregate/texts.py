"""Names that people or tables gave, as one short line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 32  # characters of an attribute, of a class in a line
_IN_LIST = 20  # names in a line


def plain_text(text: str, most: int = LONGEST) -> str:
    """Return a text as one printable line of at most so many characters, as captions take it."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def few(names: Sequence[str]) -> str:
    """Return the first names of some, each shortened."""
    more = f" and {len(names) - _IN_LIST} more" if len(names) > _IN_LIST else ""
    return ", ".join(map(plain_text, names[:_IN_LIST])) + more
