"""Fonts for names in any script: matplotlib's own first, then one that has what it lacks.

DejaVu Sans comes with matplotlib, so figures look the same everywhere; it has no Korean. NanumGothic (Hangul, kana
and 4,888 Hanja) lies in the wheel ``koreanize-matplotlib``, of which only the font file is read and no code is run.
What neither has is looked for among the fonts of the machine.
"""

from __future__ import annotations

import importlib.util
import logging
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

log = logging.getLogger(__name__)
# A PDF holds only the letters it needs; of tables for editing the font, which it drops, it would warn each time.
logging.getLogger("fontTools.subset").setLevel(logging.ERROR)

MAIN = "DejaVu Sans"
PACKAGED = ("koreanize_matplotlib", "fonts/NanumGothic.ttf")


def families(text: str) -> list[str]:
    """Return the font families that together have every letter of `text`, the main one first.

    Where no font has a letter, one line says which and what to install; it is drawn as an empty box.
    """
    lacking = {ord(letter) for letter in text if _drawn(letter)} - letters_of(_main())
    found = [MAIN]
    while lacking:
        path = _best(lacking)
        if path is None:
            log.warning("%s", _nothing_for(lacking))
            break
        found.append(_register(path))
        lacking -= letters_of(path)
    return found


def _drawn(letter: str) -> bool:
    """Return whether a letter has a shape: spaces and control characters have none."""
    return not letter.isspace() and not unicodedata.category(letter).startswith("C")


def _nothing_for(lacking: Iterable[int]) -> str:
    shown = "".join(chr(code) for code in sorted(lacking)[:8])
    scripts = sorted({unicodedata.name(chr(code), "an unnamed letter").split()[0].title() for code in lacking})
    return (
        f"no font on this machine has {shown!r} ({', '.join(scripts[:3])}): install one, such as Debian's "
        "fonts-noto-core and fonts-noto-cjk; until then it is drawn as boxes"
    )


@cache
def letters_of(path: Path) -> frozenset[int]:
    """Return the code points that a font file has; none where it cannot be read."""
    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (RuntimeError, OSError):  # damaged, or of a kind that FreeType does not know
        return frozenset()


def _main() -> Path:
    return Path(font_manager.findfont(MAIN))


def packaged() -> list[Path]:
    """Return the font files that were installed with this project."""
    package, member = PACKAGED
    found = importlib.util.find_spec(package)  # which finds a package without running it
    places = (found.submodule_search_locations or []) if found else []
    return [Path(place) / member for place in places if (Path(place) / member).is_file()]


def installed() -> list[Path]:
    """Return the machine's font files; upright regular sans ones first, in an order that does not change."""
    return sorted(map(Path, font_manager.findSystemFonts()), key=_preference)


def _preference(path: Path) -> tuple[bool, bool, str]:
    name = path.stem.lower()
    other = any(part in name for part in ("bold", "italic", "oblique", "light", "thin", "black", "medium"))
    return other, any(part in name for part in ("serif", "mono", "myeongjo", "coding")), str(path)


def _best(lacking: set[int]) -> Path | None:
    """Return the font that has most of what is lacking, a packaged one before the machine's."""
    for paths in (packaged(), installed()):
        most = max(paths, key=lambda path: len(lacking & letters_of(path)), default=None)
        if most is not None and lacking & letters_of(most):
            return most
    return None


@cache
def _register(path: Path) -> str:
    """Make a font file known to matplotlib and return its family."""
    font_manager.fontManager.addfont(str(path))
    return str(FT2Font(str(path)).family_name)
