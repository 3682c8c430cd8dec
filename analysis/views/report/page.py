"""The page: one HTML file with its data, its style, its scripts and its plotting library, and nothing from elsewhere.

Text from runs reaches the page in two ways only: through Jinja's escaping, and as JSON in a data block, from which the
scripts set it as text and never as markup. Should either fail, the content security policy still runs no script but
the page's own, known by their hashes, and asks no network for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from analysis.advise import Asked
from analysis.records import Runs
from analysis.views.drawing.picture import VERSION
from analysis.views.report.content import Content, content
from harness import __version__

SCRIPTS = (
    "data",
    "charts",
    "leaderboard",
    "pairs",
    "figures",
    "explorer",
    "curves",
    "samples",
    "run",
    "main",
)
"""Files of ``assets/``, in the order in which they run."""


def page(
    runs: Runs, title: str, against: str | None = None, now: datetime | None = None, asked: Asked | None = None
) -> str:
    """Return the HTML of a page about these runs; `against` and `asked` as in :func:`content`."""
    made = content(runs, against, asked)
    scripts = [library(), *(_asset(f"{name}.js") for name in SCRIPTS)]
    style = _asset("style.css")
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            made=now or datetime.now(UTC),
            version=__version__,
            content=made,
            data=embedded(made.data),
            style=style,
            scripts=scripts,
            policy=policy(scripts, style),
        )
    )


@cache
def library() -> str:
    """Return Vega-Lite and Vega as one script, 0.9 MB: from the wheel of vl-convert, no network."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    if "</script" in bundle.lower():
        raise AssertionError("the plotting library cannot stand inside a script element")
    return f"{{{bundle}}}"  # a block, so that its short names stay its own


def embedded(data: dict[str, Any]) -> str:
    """Return JSON that can stand inside a script element: no ``<``, ``>``, ``&`` and no line separators of Unicode."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def policy(scripts: list[str], style: str) -> str:
    """Return the content security policy: nothing but these scripts and this style, known by their SHA-256."""
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_digest, scripts)),
        "style-src": _digest(style),
        "style-src-attr": "'unsafe-inline'",  # Vega sets the font and the pointer of its elements so
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("analysis.views.report").joinpath("assets", name).read_text(encoding="utf-8")


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("analysis.views.report", "assets"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


__all__ = ["Content", "embedded", "page", "policy"]
