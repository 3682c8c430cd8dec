"""Style, fonts, names, intervals over seeds: held against closed forms, other libraries, and simulation."""

from __future__ import annotations

import html
import logging
import re
from itertools import combinations

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from fontTools.ttLib import TTFont
from scipy import stats

from analysis.views.drawing import fonts
from analysis.views.drawing.marks import by_method, domain, log, place_labels, points, ticks, values
from analysis.views.drawing.page import slug
from analysis.views.drawing.picture import _svg
from analysis.views.drawing.series import in_order, over_seeds
from analysis.views.drawing.style import COMPACT, DARK, LIGHT, Look, Theme, compact, config, width, wrapped
from analysis.views.figures.spectra import gaussian_spectrum

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
    names = [f"method {number}" for number in range(40)]
    rows = pd.DataFrame({"method": names, "rank": pd.array([8, 64] * 20, dtype="Int64")})
    look = Look.of(rows)
    marks = {}
    for some in (rows, rows.iloc[5:7]):
        apart = by_method(some, look, line=True)
        domain, shapes = apart["color"].to_dict()["scale"]["domain"], apart["shape"].to_dict()["scale"]["range"]
        dashes = [one["value"] for one in apart["strokeDash"]["condition"]]
        colours = [LIGHT.methods[place % len(LIGHT.methods)] for place in range(len(domain))]  # as Vega goes round
        found = list(zip(domain, colours, shapes, map(tuple, dashes), strict=True))
        marks |= {len(some): found}
        assert apart["color"].to_dict()["legend"]["values"] == some["method"].tolist()
    assert marks[40] == marks[2]
    assert len({(colour, shape) for _, colour, shape, _ in marks[40]}) == 40
    assert len({(colour, dash) for _, colour, _, dash in marks[40]}) == 40


def luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("theme", "ground"), [(LIGHT, "#FFFFFF"), (DARK, "#14171C")])
def test_marks_and_words_can_be_seen_on_paper_and_in_the_dark(theme: Theme, ground: str) -> None:
    def contrast(colour: str) -> float:
        low, high = sorted((luminance(colour), luminance(ground)))
        return (high + 0.05) / (low + 0.05)

    assert {colour: contrast(colour) for colour in theme.methods if contrast(colour) < 3} == {}
    assert min(contrast(theme.text), contrast(theme.quiet)) > 4.5


NUMBERS = {0: "0", 1e-4: "1e-4", 3e-4: "3e-4", 0.01: "0.01", 250: "250", 12_500: "12.5k", 4.4e6: "4.4M", 7e9: "7B"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_numbers_in_few_characters(value: float, text: str) -> None:
    assert compact(value) == text


def rendered(chart: alt.TopLevelMixin) -> str:
    spec = chart.to_dict() | {"config": config(LIGHT, fonts.families(KOREAN))}
    return _svg(spec)


@pytest.mark.slow
def test_axes_write_numbers_as_sentences_do() -> None:
    rows = alt.InlineData(values=[{"x": value} for value in NUMBERS])
    axis = alt.Axis(labelExpr=COMPACT)
    svg = rendered(alt.Chart(rows).mark_point().encode(x=alt.X("x:O", axis=axis)).properties(width=600))
    assert [text for text in NUMBERS.values() if f">{text}</text>" not in svg] == []


def test_lines_of_a_heading_fit_whatever_their_script() -> None:
    assert max(width(line) for line in wrapped([KOREAN, "lora", "3 seeds", "12 runs"] * 3, 238)) <= 238 / 3.7
    assert wrapped(["one", "two"], 238) == ["one · two"]


def test_slugs_keep_letters_of_any_script_and_nothing_that_a_path_minds() -> None:
    assert slug(KOREAN) == "한국어_감정_분류"
    assert slug('../<b>"x"</b>|?') == "b_x_b"
    assert slug("///") == "unnamed"


def test_korean_has_a_font_that_came_with_the_project(caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.lacking(KOREAN + " λ ε ΔW ‖ − ≥") == "" and not caplog.records
    assert {ord(letter) for letter in "가힣ㄱ"} <= set(TTFont(fonts.packaged()[0]).getBestCmap())


@pytest.mark.slow
def test_korean_is_drawn_and_not_as_boxes() -> None:
    """A box is the same for every letter that a font lacks."""
    drawn = {vl_convert.svg_to_png(rendered(lettered(letter))) for letter in "한국어"}
    assert len(drawn) == 3


def lettered(text: str) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=[{}])).mark_text().encode(text=alt.value(text))


def test_a_letter_that_no_font_has_is_one_line_that_says_what_to_install(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert fonts.lacking("lora 𐎠") == fonts.lacking("𐎠") == "𐎠"
    assert len(caplog.records) == 1 and "fonts-noto" in caplog.text and "Old" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a $x_1$ \\frac{", "_hidden", '<b>"quotes"</b> & more', "null", "a.b[c]"])
def test_names_are_text_whatever_is_in_them(name: str) -> None:
    rows = pd.DataFrame({"method": [name, "other"], "rank": [8, 8], "x": [0, 1], "value": 1.0, "low": 1.0, "high": 1.0})
    marks = points(alt.X("x:Q"), alt.Y(field="value", type="quantitative"), by_method(rows, Look()))
    svg = rendered(alt.layer(*marks, data=values(rows, "method", "x", "value", "low", "high")))
    texts = [html.unescape(text) for text in re.findall(r">([^<>]*)</text>", svg)]
    assert {name, "other"} <= set(texts)


def test_an_interval_is_a_line_from_its_low_to_its_high_end() -> None:
    rows = pd.DataFrame({"x": [1], "value": [0.5], "low": [0.4], "high": [0.7], "method": "lora"})
    marks = points(alt.X("x:Q"), alt.Y(field="value", type="quantitative"), by_method(rows, Look(("lora",))))
    bar, point = alt.layer(*marks, data=values(rows, "x", "value", "low", "high", "method")).to_dict()["layer"]
    fields = [bar["encoding"]["y"], bar["encoding"]["y2"], point["encoding"]["y"]]
    assert [one["field"] for one in fields] == ["low", "high", "value"]
    assert bar["mark"]["style"] == "interval" and bar["mark"]["clip"]


def test_an_axis_shows_all_values_and_cuts_intervals_that_dwarf_them() -> None:
    bottom, top = domain(pd.DataFrame({"value": [0.5, 0.6], "low": [-3.0, 0.58], "high": [4.0, 0.62]}))
    assert 0.3 < bottom < 0.5 and 0.6 < top < 0.8


def test_an_axis_of_shares_ends_at_0_and_1() -> None:
    rows = pd.DataFrame({"value": [0.5, 0.9], "low": [0.1, 0.6], "high": [0.9, 1.2]})
    assert domain(rows, share=True)[1] < 1.06
    assert domain(rows * 10, share=True)[1] > 10


@pytest.mark.parametrize(("ends", "expected"), [((8, 64), [10, 20, 50]), ((1e-4, 1e-2), [1e-4, 1e-3, 1e-2])])
def test_ticks_of_a_logarithmic_axis_are_few_and_round(ends: tuple[float, float], expected: list[float]) -> None:
    assert ticks(*ends) == expected
    assert 3 <= len(ticks(1, 1e12)) <= 12


def test_names_stand_beside_their_points_and_on_no_other() -> None:
    spots = [tuple(spot) for spot in np.random.default_rng(0).uniform(0, 120, (60, 2))]
    placed = place_labels(spots, ["64"] * 60)
    known = [(x, y) for x, y in filter(None, placed)]
    assert 25 < len(known) < 60  # so dense that some have no room
    apart = [abs(a[0] - b[0]) >= 7.19 or abs(a[1] - b[1]) >= 5.39 for a, b in combinations(known, 2)]
    assert all(apart)  # two letters of 6 points are 7.2 wide
    near = [np.hypot(x - u, y - v) for (x, y), spot in zip(spots, placed, strict=True) if spot for u, v in [spot]]
    assert max(near) < 15


def test_gaussian_control_agrees_with_a_simulation() -> None:
    matrix = np.random.default_rng(0).standard_normal((400, 100))
    found = gaussian_spectrum(400, 100, float(np.linalg.norm(matrix)))
    assert found == pytest.approx(np.linalg.svd(matrix, compute_uv=False), rel=0.03)


@pytest.mark.parametrize("decades", [0.1, 1, 6])
def test_a_logarithmic_axis_has_room_for_half_a_marker_at_both_ends(decades: float) -> None:
    """A share of the axis, as on a linear one: a factor of 1.15 is 1 % of six decades, and markers were cut."""
    low, high = np.log10(log([1e-3, 1e-3 * 10**decades])["scale"].domain)
    assert min(-3 - low, high - (decades - 3)) >= 0.027 * (high - low)
    assert log([3.0, 30.0], 1.0)["scale"].domain == [3.0, 30.0]
