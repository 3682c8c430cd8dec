"""Style, fonts, names, intervals over seeds: held against closed forms, other libraries, and simulation."""

from __future__ import annotations

import logging

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure as Canvas
from scipy import stats

from analysis.drawing import fonts
from analysis.drawing.marks import bars, frame, handle, legend
from analysis.drawing.page import slug
from analysis.drawing.series import in_order, over_seeds
from analysis.drawing.settings import joined
from analysis.drawing.style import COLOURS, RC, Look, Mark, compact, shorten, width, wrapped
from analysis.figures.intruders_forgetting import spearman
from analysis.figures.spectra import gaussian_spectrum

KOREAN = "한국어 감정 분류"


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns).assign(id=lambda rows: [f"run-{number}" for number in range(len(rows))])


def test_mean_over_seeds_has_students_interval() -> None:
    values = [0.7, 0.8, 0.75, 0.85]
    found = over_seeds(table(method="lora", rank=8, score=values), ["method", "rank"], "score").iloc[0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((np.mean(values), low, high))
    assert found["interval"] == "seeds" and found["ids"] == "run-0 run-1 run-2 run-3"


def test_mean_over_seeds_is_no_narrower_than_the_items_allow() -> None:
    """Three seeds that happen to agree say nothing of other test items: ±.05 of the runs themselves stays."""
    rows = table(method="lora", score=[0.8, 0.8, 0.8], low=0.75, high=0.85)
    found = over_seeds(rows, ["method"], "score", "low", "high").iloc[0]
    assert found["high"] - found["low"] == pytest.approx(0.1, rel=0.05)


def test_one_seed_has_the_runs_own_interval() -> None:
    found = over_seeds(table(method=["full"], score=0.8, low=0.7, high=0.9), ["method"], "score", "low", "high").iloc[0]
    assert (found["low"], found["high"], found["interval"]) == (0.7, 0.9, "items")


def test_a_missing_value_is_left_out_and_is_no_zero() -> None:
    rows = table(method=["lora", "lora", "prompt"], score=pd.array([0.8, None, None], dtype="Float64"))
    found = over_seeds(rows, ["method"], "score")
    assert found[["method", "value", "seeds"]].values.tolist() == [["lora", 0.8, 1]]
    assert np.isnan(found["low"]).all() and found["interval"].tolist() == [""]


def test_methods_keep_the_order_of_the_records_and_ranks_rise() -> None:
    rows = pd.DataFrame({"method": ["b", "a", "b"], "rank": pd.array([64, None, 8], dtype="Int64")})
    assert in_order(rows)[["method"]].values.ravel().tolist() == ["b", "b", "a"]
    assert in_order(rows)["rank"].tolist()[:2] == [8, 64]


def test_a_method_looks_the_same_whatever_part_of_the_runs_is_shown() -> None:
    names = [f"method {number}" for number in range(24)]
    look = Look.of(pd.DataFrame({"method": names, "rank": pd.array([8, 64] * 12, dtype="Int64")}))
    marks = [look.method(name) for name in names]
    assert len({(mark.colour, mark.marker) for mark in marks}) == 24
    assert look.rank(8).colour != look.rank(64).colour and look.rank(pd.NA) == look.rank(None)


def contrast(colour: str) -> float:
    """Return the contrast with white (WCAG 2.1, relative luminance)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_every_colour_can_be_seen_on_white_paper() -> None:
    assert all(contrast(colour) > 2 for colour in COLOURS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-4, "1e-4"),
        (3e-4, "3e-4"),
        (0.01, "0.01"),
        (250, "250"),
        (12_500, "12.5k"),
        (4.4e6, "4.4M"),
        (7e9, "7B"),
    ],
)
def test_numbers_in_few_characters(value: float, text: str) -> None:
    assert compact(value) == text


def test_long_names_keep_both_ends_and_fit() -> None:
    short = shorten("a very long name of a method " * 4 + "r64", 30)
    assert width(short) <= 30 and short.startswith("a very") and short.endswith("r64")
    assert width(shorten(KOREAN * 9, 30)) <= 30
    assert max(width(line) for line in wrapped([KOREAN, "lora", "3 seeds", "12 runs"] * 3, 3.3).splitlines()) <= 49


def test_slugs_keep_letters_of_any_script_and_nothing_that_a_path_minds() -> None:
    assert slug(KOREAN) == "한국어_감정_분류"
    assert slug('../<b>"x"</b>|?') == "b_x_b"
    assert slug("///") == "unnamed"


def test_korean_is_drawn_by_a_font_that_has_it(caplog: pytest.LogCaptureFixture) -> None:
    """A glyph that is missing is a warning of matplotlib's, which is an error here."""
    with mpl.rc_context(RC | {"font.family": fonts.families(KOREAN)}):
        canvas = Canvas(layout="constrained")
        canvas.text(0.5, 0.5, KOREAN)
        canvas.draw_without_rendering()
    assert fonts.families(KOREAN) == ["DejaVu Sans", "NanumGothic"] and not caplog.records
    assert {ord(letter) for letter in "가힣ㄱ"} <= set(TTFont(fonts.packaged()[0]).getBestCmap())


def test_a_letter_that_no_font_has_is_one_line_that_says_what_to_install(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert fonts.families("lora 𐎠") == ["DejaVu Sans"]
    assert len(caplog.records) == 1 and "fonts-noto" in caplog.text and "Old" in caplog.text


@pytest.mark.parametrize("name", ["a $x_1$ \\frac{", "_hidden", '<b>"quotes"</b> & more', "two\nlines", ""])
def test_names_are_text_whatever_is_in_them(name: str) -> None:
    with mpl.rc_context(RC):
        canvas = Canvas(layout="constrained")
        canvas.subplots()
        legend(canvas, [handle(name, Mark("#000000")), handle("other", Mark("#000000"))])
        canvas.draw_without_rendering()
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == [" ".join(name.split()), "other"]


def test_bars_reach_from_low_to_high_and_never_backwards() -> None:
    axes = Canvas().subplots()
    rows = pd.DataFrame({"x": [1, 2], "value": [0.5, 0.5], "low": [0.4, 0.6], "high": [0.7, 0.8]})
    bars(axes, rows, "x", Mark("#000000"))
    ends = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([0.4, 0.7]), pytest.approx([0.5, 0.8])]


def test_the_frame_shows_all_values_and_cuts_intervals_that_dwarf_them() -> None:
    axes = Canvas().subplots()
    frame(axes, pd.DataFrame({"value": [0.5, 0.6], "low": [-3.0, 0.58], "high": [4.0, 0.62]}))
    bottom, top = axes.get_ylim()
    assert 0.3 < bottom < 0.5 and 0.6 < top < 0.8


def test_an_axis_of_shares_ends_at_0_and_1() -> None:
    axes = Canvas().subplots()
    frame(axes, pd.DataFrame({"value": [0.5, 0.9], "low": [0.1, 0.6], "high": [0.9, 1.2]}), share=True)
    assert axes.get_ylim()[1] < 1.06
    frame(axes, pd.DataFrame({"value": [5.0, 9.0], "low": [4.0, 8.0], "high": [6.0, 10.0]}), share=True)
    assert axes.get_ylim()[1] > 10


def test_arguments_may_be_written_with_dashes() -> None:
    assert joined(["runs", "--out", "x", "--only=a", "where=b"]) == ["runs", "out=x", "only=a", "where=b"]


def test_gaussian_control_agrees_with_a_simulation() -> None:
    matrix = np.random.default_rng(0).standard_normal((400, 100))
    found = gaussian_spectrum(400, 100, float(np.linalg.norm(matrix)))
    assert found == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=0.03)


def test_spearman_by_the_closed_form_without_ties() -> None:
    x, y = pd.Series([1.0, 2, 3, 4, 5]), pd.Series([2.0, 1, 4, 3, 5])
    d = np.array([1, 1, 1, 1, 0])
    assert spearman(x, y)[0] == pytest.approx(1 - 6 * (d**2).sum() / (5 * 24))
    assert np.isnan(spearman(x, pd.Series([1.0] * 5))[0])
