"""The page in a real Chromium: what a reader does with it, and what text from runs cannot do to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_page import EVIL, KOREAN, Opened, opening

from analysis.records import read_runs
from analysis.views.drawing.command import figures
from analysis.views.drawing.page import pages
from analysis.views.drawing.picture import heading
from analysis.views.report.page import SCRIPTS, page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # a browser takes 10 s to start, with the page of 14 runs that it opens
NAMES = "#runs tbody th button"
SCORES = "#runs tbody tr td:nth-of-type({column})"


def column(opened: Opened, label: str) -> list[str]:
    """Return the leaderboard's cells under a heading."""
    heads = opened.texts("#runs thead th")
    at = next(number for number, text in enumerate(heads) if text.startswith(label))
    return opened.texts(f"#runs tbody tr > :nth-child({at + 1})")


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.split(" ")[0]) for cell in cells if cell != "n/a"]


def test_every_run_stands_in_the_leaderboard_with_its_interval(opened: Opened) -> None:
    assert opened.count("#runs tbody tr") == 14
    scores = column(opened, "Score")
    assert numbers(scores) == sorted(numbers(scores), reverse=True)
    assert len(numbers(scores)) == 12
    assert scores[0].startswith(".730 [.665, .787]")  # Wilson's interval of 146 in 200
    assert scores[-2:] == ["n/a", "n/a"]
    assert opened.count("#runs tbody svg.range[aria-hidden=true]") >= 12


def test_each_paragraph_of_the_answer_has_its_picture(opened: Opened) -> None:
    paragraphs = opened.count("#answer > p:not([data-advice])")
    assert paragraphs == opened.count("#answer figure") >= 1
    opened.page.locator("#answer figure").first.scroll_into_view_if_needed()
    opened.page.wait_for_selector("#answer figure[data-drawn] svg", timeout=20_000)
    assert "Learning against forgetting" in opened.texts("#answer figcaption")[0]


def test_the_advice_stands_under_the_answer_and_opens_by_a_click(opened: Opened) -> None:
    assert opened.count("#answer [data-advice]") >= 1
    opened.page.locator("#answer summary", has_text="Excluded").first.click()
    assert any(text.startswith("prefix: not applicable: needs a decoder") for text in opened.texts("[data-excluded]"))
    opened.page.locator("#answer summary", has_text="What would settle").first.click()
    assert opened.texts("#answer details[open] pre")[0].startswith("python -m harness.run -m ")


@pytest.mark.parametrize("press", ["Enter", "Space"])
def test_columns_sort_by_keyboard_and_say_so(opened: Opened, press: str) -> None:
    button = opened.page.locator("#runs thead button", has_text="Score")
    button.focus()
    opened.page.keyboard.press(press)
    head = opened.page.locator("#runs thead th", has_text="Score")
    assert head.get_attribute("aria-sort") == "ascending"
    assert opened.page.evaluate("document.activeElement.textContent").startswith("Score")
    scores = column(opened, "Score")
    assert numbers(scores) == sorted(numbers(scores))
    assert scores[-2:] == ["n/a", "n/a"]  # missing values stand last in either order
    assert opened.count("#runs thead th[aria-sort=ascending], #runs thead th[aria-sort=descending]") == 1


def test_filters_narrow_the_leaderboard_and_the_charts(opened: Opened) -> None:
    opened.drawn("explorer")
    opened.page.locator("#filters").get_by_label("Method", exact=True).select_option("lora")
    assert opened.count("#runs tbody tr") == 4
    assert opened.texts("#count") == ["4 of 14 runs"]
    assert "4 runs" in opened.texts("#explorer figcaption")[0]
    opened.page.locator("#filters").get_by_label("Search").fill("LORA 0.001")
    assert opened.count("#runs tbody tr") == 2
    opened.page.get_by_role("button", name="Show all").click()
    assert opened.count("#runs tbody tr") == 14


def test_the_rates_that_were_tried_are_a_chart_and_stand_in_each_run(browser: Browser, searched_file: Path) -> None:
    with opening(browser, searched_file) as opened:
        opened.drawn("figure-score_rate")
        assert "encircled: the chosen rate" in opened.texts("#figure-score_rate figcaption")[0]
        opened.page.locator("#figure-score_rate summary").click()
        opened.page.locator("#figure-score_rate tbody tr").first.wait_for()  # filled in when it opens
        assert opened.count("#figure-score_rate tbody tr") == 5
        opened.page.locator(NAMES, has_text="full").first.click()
        dialog = opened.page.locator("dialog[open]")
        assert "1e-4, chosen" in dialog.inner_text() and ".600 [" in dialog.inner_text()
        assert "Ended: search.max_runs=2 reached" in dialog.locator("p.warning", has_text="Ended").inner_text()


def test_filters_by_any_setting(opened: Opened) -> None:
    opened.page.locator("#filters").get_by_label("Any setting").select_option("config.train.learning_rate")
    opened.page.locator("#filters").get_by_label("is", exact=True).select_option("0.003")
    assert opened.count("#runs tbody tr") == 6


def test_columns_can_be_chosen(opened: Opened) -> None:
    opened.page.get_by_text("Columns", exact=True).click()
    opened.page.locator("#columns").get_by_label("Validation", exact=True).check()
    assert len(column(opened, "Validation")) == 14
    opened.page.locator("#columns").get_by_label("Validation", exact=True).uncheck()
    assert not [text for text in opened.texts("#runs thead th") if text.startswith("Validation")]


def test_hovering_a_point_shows_its_run_and_a_click_opens_it(opened: Opened) -> None:
    opened.drawn("explorer")
    point = opened.page.locator("#explorer path[aria-roledescription=point]").first
    label = point.get_attribute("aria-label")
    point.hover()
    hover = opened.page.locator("#hover")
    hover.wait_for(state="visible")
    lines = hover.locator("b, span").all_text_contents()
    assert label is not None and label.startswith("; ".join(lines[:2]))
    assert any(line.startswith("Score") and "[" in line for line in lines)
    point.click()
    assert lines[1] in opened.texts("dialog#run[open] #run-body > p")[0]


def test_axes_are_any_two_numbers(opened: Opened) -> None:
    opened.drawn("explorer")
    assert opened.count("#explorer path[aria-roledescription=point]") == 12
    opened.page.locator("#axes").get_by_label("Across (x)").select_option("rank")
    opened.page.locator("#axes").get_by_label("Up (y)").select_option("intruders")
    opened.page.locator("#explorer svg .role-axis-title", has_text="Intruders").wait_for()
    assert opened.count("#explorer path[aria-roledescription=point]") == 4
    options = (
        opened.page.locator("#axes")
        .get_by_label("Up (y)")
        .locator("option")
        .evaluate_all("options => options.map((option) => option.value)")
    )
    assert {"score", "tokens", "seconds.load", "probe.lm_loss.made/loss.delta", "config.train.learning_rate"} <= {
        *options
    }
    assert "label" not in options


def test_charts_have_the_same_as_a_table(opened: Opened) -> None:
    for figure, rows in (("explorer", 12), ("curve", 12), ("figure-pareto", 3), ("figure-intruders_rank", 8)):
        opened.drawn(figure)
        opened.page.locator(f"#{figure} summary").click()
        opened.page.locator(f"#{figure} table tbody tr").first.wait_for()  # filled in when it opens
        assert opened.count(f"#{figure} table tbody tr") == rows
        assert opened.texts(f"#{figure} table caption") == opened.texts(f"#{figure} figcaption")
        assert opened.page.locator(f"#{figure} svg").first.get_attribute("aria-label")


def test_intruders_stand_beside_their_null_controls(opened: Opened) -> None:
    opened.drawn("figure-intruders_layer")
    opened.page.locator("#figure-intruders_layer summary").click()
    opened.page.locator("#figure-intruders_layer table tbody tr").first.wait_for()
    rows = opened.page.locator("#figure-intruders_layer tbody tr").all_inner_texts()
    assert [row.split("\t")[1:4] for row in rows[:2]] == [["8", "0", "14"], ["8", "1", "0"]]  # rank, layer, count
    random = {"random, same spectrum", "random, equal norm", "random, equal norm and rank"}
    assert {row.rsplit("\t")[-1] for row in rows[3:]} == random


FIGURES = {"pareto", "score_parameters", "forgetting_rank", "cost", "score_rate", "training_curves"}


def test_a_figure_on_the_page_is_the_one_of_analysis_figures(opened: Opened, runs_folder: Path) -> None:
    table = read_runs(runs_folder).table
    one = next(iter(pages(table)))
    (figure,) = figures(("pareto",))
    data = figure.data(one)
    opened.drawn("figure-pareto")
    points = opened.page.locator("#figure-pareto path[aria-roledescription=point]")
    assert points.count() == len(data)
    assert opened.texts("#figure-pareto figcaption") == [f"{figure.title}. {' · '.join(heading(figure, one, data))}"]
    found = points.evaluate_all("points => points.map((point) => point.__data__.datum.value)")
    assert found == pytest.approx(data["value"].tolist(), rel=1e-5)


def test_every_figure_that_has_data_is_there_and_the_others_say_what_they_need(opened: Opened) -> None:
    ids = {*opened.page.locator("#figure-list figure").evaluate_all("all => all.map((one) => one.id.slice(7))")}
    assert ids > FIGURES and "lambda_curves" not in ids
    assert any("python -m analysis.interventions" in line for line in opened.texts("#figures li"))


def test_the_arrows_reach_every_point_and_enter_opens_its_runs(opened: Opened) -> None:
    opened.drawn("figure-pareto")
    points = opened.page.locator("#figure-pareto path[aria-roledescription=point]")
    reached = "#figure-pareto [tabindex='0'][role=graphics-symbol]"
    assert opened.count(reached) == 1  # one stop of the tab key a chart
    opened.page.locator(reached).focus()
    labels = set()
    for _ in range(points.count()):
        labels.add(opened.page.evaluate("document.activeElement.getAttribute('aria-label')"))
        assert opened.page.locator("#hover").is_visible()
        opened.page.keyboard.press("ArrowRight")
    assert labels == {*points.evaluate_all("points => points.map((point) => point.getAttribute('aria-label'))")}
    opened.page.keyboard.press("Enter")
    dialog = opened.page.locator("dialog[open]")
    assert dialog.locator("h2").text_content() == "2 runs"
    dialog.locator("li button").last.click()
    assert (dialog.locator("h2").text_content() or "").endswith("seed 1")


PRINTED = """() => matchMedia("print").addEventListener("change", ({ matches }) => {
  const count = (selector) => document.querySelectorAll(selector).length;
  if (matches) window.printed = { drawn: count("figure[data-drawn]"), dark: count("figure svg text[fill='#E8EAED']") };
})"""


def test_what_was_never_seen_is_printed_and_in_light_colours(browser: Browser, page_file: Path) -> None:
    with opening(browser, page_file, color_scheme="dark") as opened:
        assert opened.count("#curve svg") == 0
        opened.page.evaluate(PRINTED)
        opened.page.pdf()
        figures = opened.count("figure")
        assert figures > 10
        assert opened.page.evaluate("printed") == {"drawn": figures, "dark": 0}


def test_text_from_runs_is_only_ever_text(opened: Opened) -> None:
    opened.page.locator("#sample-choices").get_by_label("Run", exact=True).select_option(index=8)
    said = opened.texts("#sample-table tbody th")
    assert f"{EVIL} {KOREAN}" in said
    assert f"RuntimeError: {EVIL}" in opened.texts("#not-done tbody td:last-child")
    assert opened.texts("h1") == [f"Runs {EVIL}"]
    assert opened.page.title() == f"Runs {EVIL}"
    assert f"{EVIL} {KOREAN}" in [*opened.texts("#runs tbody td")]
    assert opened.count("img") == 0
    assert opened.count("script:not([type])") == 1 + len(SCRIPTS)  # the library and our own
    assert opened.count("main") == 1


def test_a_run_opens_with_its_settings_its_failure_and_its_command(opened: Opened) -> None:
    opened.page.locator("#not-done tbody button", has_text="prompt").focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.locator("dialog[open]")
    assert dialog.locator("h2").text_content() == "prompt, seed 0"
    dialog.locator("summary", has_text="Traceback").click()
    assert EVIL in (dialog.locator("details[open] pre").text_content() or "")
    assert "python -m harness.run model=bert_tiny task=trec method=prompt" in (
        dialog.locator("pre").nth(1).text_content() or ""
    )
    assert "train.learning_rate" in dialog.locator("table").nth(1).inner_text()
    opened.page.keyboard.press("Escape")
    assert opened.count("dialog[open]") == 0
    assert opened.page.evaluate("document.activeElement.dataset.run") is not None  # the focus goes back


def test_nothing_is_wider_than_a_phone(browser: Browser, page_file: Path) -> None:
    with opening(browser, page_file, viewport={"width": 360, "height": 740}) as opened:
        for figure in ("explorer", "curve", "figure-cost", "figure-intruders_rank"):
            opened.drawn(figure)
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
        opened.page.locator(NAMES).first.click()
        assert opened.page.evaluate("document.querySelector('dialog').scrollWidth <= 360")


LUMINANCE = """() => {
  const probe = document.body.appendChild(document.createElement("span"));
  const light = (name) => {
    probe.style.color = `var(--${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const names = ["back", "raised", "text", "quiet", "link", "bad", "good", "edge", "warn-back"];
  return Object.fromEntries(names.map((name) => [name, light(name)]));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_in_light_and_dark(browser: Browser, page_file: Path, scheme: str) -> None:
    """WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for controls and marks of charts (1.4.11)."""
    with opening(browser, page_file, color_scheme=scheme) as opened:
        found = opened.page.evaluate(LUMINANCE)

    def contrast(one: str, other: str) -> float:
        low, high = sorted((found[one], found[other]))
        return float((high + 0.05) / (low + 0.05))

    assert (found["back"] < 0.2) == (scheme == "dark")
    pairs = [
        (text, back) for text in ("text", "quiet", "link", "bad", "good") for back in ("back", "raised", "warn-back")
    ]
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}
    assert contrast("edge", "back") >= 3  # marks of charts: test_drawing


def test_the_theme_can_be_switched_and_charts_follow(browser: Browser, page_file: Path) -> None:
    with opening(browser, page_file, color_scheme="light") as opened:
        opened.drawn("explorer")
        before = opened.page.locator("#explorer path[aria-roledescription=point]").first.get_attribute("fill")
        opened.page.get_by_label("Theme").select_option("dark")
        opened.page.locator("#explorer[data-drawn='2']").wait_for()
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert opened.page.locator("#explorer path[aria-roledescription=point]").first.get_attribute("fill") != before


NAMELESS = """() => [...document.querySelectorAll("button, a, select, input, [role=region], dialog")]
  .filter((element) => !element.closest("[hidden], .plot"))
  .filter((element) => {
    const label = element.labels?.[0] ?? document.getElementById(element.getAttribute("aria-labelledby") ?? "");
    return ![element.getAttribute("aria-label"), element.textContent, label?.textContent].some((text) => text?.trim());
  }).map((element) => element.outerHTML.slice(0, 200))"""


def test_structure_for_a_screen_reader(opened: Opened) -> None:
    evaluate = opened.page.evaluate
    assert evaluate(NAMELESS) == []
    assert evaluate("document.documentElement.lang") == "en"
    assert evaluate("[...document.querySelectorAll('table')].filter((t) => t.rows.length && !t.caption).length") == 0
    assert evaluate("[...document.querySelectorAll('thead th')].filter((th) => th.scope !== 'col').length") == 0
    assert evaluate("[...document.querySelectorAll('tbody th')].filter((th) => th.scope !== 'row').length") == 0
    levels = evaluate("[...document.querySelectorAll('main h1, main h2, main h3')].map((h) => Number(h.tagName[1]))")
    assert opened.count("h1") == 1
    assert levels[0] == 2 and set(levels) == {2, 3}
    ids = evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len({*ids})
    assert evaluate("[...document.querySelectorAll('.scroll')].every((box) => box.tabIndex === 0)")
    targets = evaluate("[...document.querySelectorAll('nav a')].map((a) => a.hash.slice(1))")
    assert {*targets} <= {*ids}
    opened.page.keyboard.press("Tab")
    assert evaluate("document.activeElement.className") == "skip"
    assert evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_runs_that_all_failed_still_make_a_page(browser: Browser, tmp_path: Path) -> None:
    from made_runs import Made, make_run

    make_run(tmp_path / "runs", made=Made(status="failed", reason="CUDA out of memory"))
    file = tmp_path / "index.html"
    file.write_text(page(read_runs(tmp_path / "runs"), "Failed"), encoding="utf-8")
    with opening(browser, file) as opened:
        assert opened.texts("#runs tbody tr th") == ["lora r16"]
        assert "No run has ended yet" in opened.texts("#leaderboard .empty")[0]
        assert opened.texts("#not-done td:last-child") == ["CUDA out of memory"]
