"""Fonts for names in any script, the same on every machine.

Liberation Sans, of Arial's widths, is compiled into ``vl-convert-python``; it has no Korean. NanumGothic (Hangul, kana
and 4,888 Hanja) lies in the wheel ``koreanize-matplotlib``, of which only the font file is read and no code is run.
What neither has is taken from the fonts of the machine.
"""

from __future__ import annotations

import importlib.util
import logging
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

FAMILIES = "Liberation Sans, Arial, Helvetica, sans-serif"
PACKAGED = ("koreanize_matplotlib", "fonts/NanumGothic.ttf")
PLACES = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts")
MAIN = (range(0x0530), range(0x2000, 0x2300))
"""Latin, Greek and Cyrillic, punctuation and mathematics: what Liberation Sans is for."""


@cache
def register() -> None:
    """Make the packaged fonts known to the converter, once a process."""
    import vl_convert

    for path in packaged():
        vl_convert.register_font_directory(str(path.parent))


def families(text: str) -> str:
    """Return the fonts for `text`, first the one that has all scripts of it, so that its words look alike."""
    return f"NanumGothic, {FAMILIES}" if any(_others(text) & letters_of(path) for path in packaged()) else FAMILIES


def _others(text: str) -> set[int]:
    """Return the letters that have a shape and are not among those of the main font."""
    return {ord(letter) for letter in text if _drawn(letter) and not any(ord(letter) in some for some in MAIN)}


def lacking(text: str) -> str:
    """Return the letters of `text` that no font has, and say once which and what to install; boxes are drawn then."""
    codes = _others(text)
    for path in packaged() + (installed() if codes else []):
        codes -= letters_of(path) if codes else set()
    if codes:
        _say_once(_nothing_for(codes))
    return "".join(map(chr, sorted(codes)))


def _drawn(letter: str) -> bool:
    """Return whether a letter has a shape: spaces and control characters have none."""
    return not letter.isspace() and not unicodedata.category(letter).startswith("C")


@cache
def _say_once(line: str) -> None:
    log.warning("%s", line)


def _nothing_for(codes: Iterable[int]) -> str:
    shown = "".join(chr(code) for code in sorted(codes)[:8])
    scripts = sorted({unicodedata.name(chr(code), "an unnamed letter").split()[0].title() for code in codes})
    return (
        f"no font on this machine has {shown!r} ({', '.join(scripts[:3])}): install one, such as Debian's "
        "fonts-noto-core and fonts-noto-cjk; until then it is drawn as boxes"
    )


@cache
def letters_of(path: Path) -> frozenset[int]:
    """Return the code points that a font file has; none where it cannot be read."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, KeyError):  # damaged, or of a kind that has no table of letters
        return frozenset()


def packaged() -> list[Path]:
    """Return the font files that were installed with this project."""
    package, member = PACKAGED
    found = importlib.util.find_spec(package)  # which finds a package without running it
    places = (found.submodule_search_locations or []) if found else []
    return [Path(place) / member for place in places if (Path(place) / member).is_file()]


def installed() -> list[Path]:
    """Return the machine's font files."""
    folders = [Path(place).expanduser() for place in PLACES]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
