"""What each figure shows, from its data: held against what the made runs were told to show."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figure_runs import RATES, accuracy
from made_runs import STEPS, Made, make_run, search_record

from analysis.figures import Settings
from analysis.records import read_runs
from analysis.views.drawing.command import draw_all, figures
from analysis.views.drawing.page import Page, every_page, pages
from analysis.views.drawing.picture import heading
from analysis.views.drawing.series import SETTING, over_seeds
from analysis.views.drawing.sources import learned
from analysis.views.drawing.style import Look
from analysis.views.table.grouped import grouped


def data(name: str, page: Page) -> pd.DataFrame:
    """Return a figure's data, once its chart has been held against the schema of Vega-Lite too."""
    (figure,) = figures((name,))
    found = figure.data(page)
    if not found.empty:
        figure.chart(found, Look.of(page.table)).to_dict()
    return found


def of(rows: pd.DataFrame, method: str, rank: int | None = None, **more: object) -> pd.DataFrame:
    found = rows[rows["method"] == method]
    found = found if rank is None else found[found["rank"] == rank]
    for name, value in more.items():
        found = found[found[name] == value]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pareto", "score_rate", "score_parameters"])
def test_a_scores_interval_is_the_one_the_tables_give(name: str, page: Page, sweep: Path) -> None:
    # Seeds' variances are borrowed across the rows of a table: of all rates, or of the chosen ones (rates=chosen).
    table = grouped(read_runs(sweep).table if name == "score_rate" else page.chosen).rows
    for row in data(name, page).to_dict("records"):
        same = table[table["folders"].map(lambda folders, row=row: all(one in folders for one in row["ids"].split()))]
        assert (row["low"], row["high"]) == pytest.approx(same[["score_low", "score_high"]].to_numpy(dtype=float)[0])
        assert row["low"] < row["value"] < row["high"]


@pytest.mark.slow
def test_where_items_are_gone_the_interval_is_made_of_the_runs_own(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "runs")
    for items in (tmp_path / "runs").rglob("items.parquet"):
        items.unlink()
    (page,) = pages(read_runs(tmp_path / "runs").table)
    table = page.chosen
    expected = over_seeds(table, SETTING, "score", "score_low", "score_high")[["low", "high"]]
    assert data("pareto", page)[["low", "high"]].to_numpy() == pytest.approx(expected.to_numpy())


@pytest.mark.parametrize(("method", "rank"), [("lora", 2), ("lora", 8), ("full", None)])
def test_score_against_parameters_at_the_rate_that_validation_chose(page: Page, method: str, rank: int | None) -> None:
    (row,) = of(data("score_parameters", page), method, rank).to_dict("records")
    assert row["learning_rate"] == RATES[1]
    assert row["value"] == pytest.approx(np.mean([accuracy(method, rank or 0, RATES[1], seed) for seed in (0, 1)]))
    assert row["trainable"] == (1000 * rank if rank else 4_000_000)
    assert row["low"] < row["value"] < row["high"] and row["seeds"] == 2


def test_score_against_rate_has_every_rate(page: Page) -> None:
    rows = of(data("score_rate", page), "lora", 8)
    assert rows["learning_rate"].tolist() == list(RATES)
    assert rows["value"].tolist() == pytest.approx(
        [np.mean([accuracy("lora", 8, r, s) for s in (0, 1)]) for r in RATES]
    )


def test_one_rate_is_no_figure_of_rates(page: Page) -> None:
    assert data("score_rate", replace(page, table=page.table[page.table["learning_rate"] == RATES[0]])).empty


def test_pareto_of_a_perplexity_has_the_better_end_on_top(page: Page) -> None:
    """Lower is better of a perplexity: the point that learned most was at the bottom of the picture."""
    (figure,), rows = figures(("pareto",)), data("pareto", page)
    axis = lambda rows: figure.chart(rows, Look.of(page.table)).to_dict()["layer"][-1]["encoding"]["y"]  # noqa: E731
    accuracy, perplexity = axis(rows), axis(rows.assign(metric="perplexity", higher_is_better=False))
    assert accuracy["title"] == "test accuracy" and perplexity["title"] == "test perplexity (lower is better)"
    assert perplexity["scale"]["domain"] == accuracy["scale"]["domain"][::-1]
    assert accuracy["scale"]["domain"] == sorted(accuracy["scale"]["domain"])


def test_pareto_marks_what_no_other_beats(page: Page) -> None:
    """LoRA r2 forgets least, full learns most (.81 at .5), LoRA r8 learns .69 at .8 and is beaten by full."""
    rows = data("pareto", page).set_index(["method", "rank"])
    assert set(rows[rows["optimal"]].index.get_level_values("method")) == {"lora", "full"}
    assert rows["forgetting_value"].tolist() == pytest.approx(
        [0.5 if method == "full" else 0.1 * rank for method, rank in rows.index], abs=1e-6
    )
    assert not rows.loc[("lora", 8), "optimal"]
    assert rows["seconds"].tolist() == pytest.approx([20.5] * 3)


def test_forgetting_by_rank(page: Page) -> None:
    rows = data("forgetting_rank", page)
    assert of(rows, "lora", 8)["value"].item() == pytest.approx(0.8)
    assert "higher = more forgotten" in rows["probe"].iloc[0]


def test_costs_in_seconds_gib_and_megabytes(page: Page) -> None:
    rows = of(data("cost", page), "lora", 8).set_index("measure")["value"]
    assert rows["train_seconds"] == 20.5 and rows["train_peak"] == 2.0
    assert rows["saved_mb"] == pytest.approx(4 * 8000 / 1e6)


def test_learning_and_forgetting_along_the_way(page: Page) -> None:
    """The made history rises in equal steps from the base to the end, and is evaluated every two steps."""
    rows = of(data("learning_tokens", page), "lora", 8)
    assert rows["step"].tolist() == list(range(2, STEPS + 1, 2))
    end = np.mean([accuracy("lora", 8, RATES[1], seed) for seed in (0, 1)])
    assert rows["value"].tolist() == pytest.approx(np.interp([0.25, 0.5, 0.75, 1], [0, 1], [0.3, end]))
    lost = of(data("forgetting_tokens", page), "lora", 8)
    assert lost["step"].tolist()[0] == 0 and lost["value"].iloc[0] == 0
    assert lost["value"].diff().iloc[2:].tolist() == pytest.approx([0.8 / 4] * 3)


def test_tokens_stay_with_their_step_whatever_the_order_of_the_runs(page: Page) -> None:
    for name in ("learning_tokens", "forgetting_tokens"):
        rows = data(name, replace(page, table=page.table.iloc[::-1].reset_index(drop=True)))
        assert rows["tokens"].tolist() == pytest.approx((rows["step"] / STEPS * 10_000).tolist(), abs=1)


def test_loss_and_gradient_norm_of_methods_with_a_rank(page: Page) -> None:
    rows = data("training_curves", page)
    assert set(rows["method"]) == {"lora"}
    loss = of(rows, "lora", 2, measure="loss")
    assert loss["value"].tolist() == pytest.approx([2 - step / STEPS for step in range(1, STEPS + 1)])
    assert set(rows["measure"]) == {"loss", "grad_norm"}


def test_long_histories_are_averaged_over_bins_of_one_width() -> None:
    from analysis.views.drawing.sources import BINS, CARRIED, binned

    steps = np.arange(1, 301)
    rows = pd.DataFrame({"step": steps, "tokens": steps * 10.0, "value": steps.astype(float)})
    found = binned(rows.assign(**dict.fromkeys(CARRIED, "x")))
    assert len(found) == BINS and found["value"].tolist() == pytest.approx(found["step"].tolist())


@pytest.mark.slow
def test_intruders_against_eps_k_and_rank(page: Page) -> None:
    """Made intruders have |cos| = .25, the others .75; all of them are the first vectors of the first matrices."""
    eps, ks, ranks = (data(name, page) for name in ("intruders_eps", "intruders_k", "intruders_rank"))
    for rank in (2, 8):
        mean = rank + 0.5
        by_eps = of(eps, "lora", rank, control="none").set_index("eps")["value"]
        assert by_eps[0.2] == 0 and by_eps[0.5] == mean and by_eps[0.95] == 60
        by_k = of(ks, "lora", rank, control="none").set_index("k")["value"]
        assert by_k[1] == 1 and by_k[10] == mean
        by_rank = of(ranks, "lora", rank, control="none", clustered=False)
        assert by_rank["value"].item() == mean and by_rank["vectors"].item() == 60
        assert (by_rank["low"] >= 0).all()
        assert (of(ranks, "lora", rank, control="dense")["value"] == 0).all()


@pytest.mark.slow
def test_intruders_by_layer_and_by_kind_of_matrix(page: Page) -> None:
    """The first ten of a run's made intruders are in the query of layer 0, the next in its output."""
    layers = of(data("intruders_layer", page), "lora", 8, control="none").set_index("layer")["value"]
    assert layers.to_dict() == {0: 8.5, 1: 0, 2: 0}
    kinds = of(data("intruders_kind", page), "lora", 8, control="none").set_index("kind")["value"]
    assert kinds.to_dict() == {"query": 8.5, "output": 0}
    assert (of(data("intruders_kind", page), "lora", control="dense")["value"] == 0).all()


def test_draws_of_random_changes_make_the_interval() -> None:
    from analysis.views.drawing.counts import mean_counts

    rows = pd.DataFrame({"id": ["a"], "method": ["lora"], "rank": [8], "learning_rate": [1e-3], "setting": [""]})
    found = mean_counts(rows.assign(intruders=4, low=2, most=9, eps=0.7), ["eps"]).iloc[0]
    assert (found["value"], found["low"], found["high"], found["interval"]) == (4, 2, 9, "")


def test_over_a_quantised_base_the_change_is_what_training_changed() -> None:
    rows = pd.DataFrame({"step": [None, None, 4], "reference": ["w0", "dequantised", "dequantised"]})
    assert learned(rows).tolist() == [False, True, False]
    assert learned(rows[rows["reference"] == "w0"]).tolist() == [True]


@pytest.mark.slow
def test_intruders_along_training(sweep: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path, "method=lora", "rank=4", made=Made(intruders=6))
    path = folder / "analysis" / "counts.parquet"
    end = pd.read_parquet(path)
    half = end.assign(step=4, intruders=end["intruders"] // 2)
    pd.concat([end, half]).to_parquet(path)
    (one,) = pages(read_runs(tmp_path).table)
    rows = of(data("intruders_step", one), "lora", 4, control="none")
    assert dict(zip(rows["step"], rows["value"], strict=True)) == {4: 3, STEPS: 6}


def test_intruders_beyond_random_changes_a_point_a_configuration(page: Page) -> None:
    rows = data("intruders_forgetting", page)
    chosen = page.chosen
    assert rows["of"].value_counts().to_dict() == {"score": 3, "forgetting": 3}  # seeds are no points of their own
    row = of(rows[rows["of"] == "forgetting"], "lora", 8).iloc[0]
    runs = of(chosen, "lora", 8)
    assert row["beyond"] == pytest.approx(runs["intruders_excess"].astype(float).mean())
    assert row["value"] == pytest.approx(runs["forgetting"].astype(float).mean())
    assert row["rho"].startswith(("ρ = ", "no ρ")) and row["rho"].endswith("n = 3") and row["partial"].endswith("n = 3")


def test_the_rank_and_k90_of_the_change(page: Page) -> None:
    ranks = of(data("effective_rank", page), "lora", 8)
    assert ranks["value"].item() == pytest.approx(np.mean([4.0 + number for number in range(6)]))
    rows = data("k90_map", page)
    assert set(rows["value"]) == {3} and set(of(rows, "lora")["rank"]) == {8}
    assert set(zip(rows["layer"], rows["kind"], strict=True)) == {(i, k) for i in range(3) for k in ("query", "output")}


def test_spectra_with_noise_of_the_changes_norm(page: Page) -> None:
    rows = of(data("spectra", page), "lora", 8)
    change = rows[rows["of"] == "change"].sort_values("index")["value"]
    assert change.tolist() == pytest.approx([0.8**j for j in range(10)])
    noise = rows[rows["of"] == "gaussian"]["value"]
    assert len(noise) == 128 and np.sqrt((noise**2).sum()) == pytest.approx(1.0)


def test_similarity_map_and_one_intruder(page: Page) -> None:
    """The first tuned vector of the first matrix is an intruder: |cos| = .1 with each base vector; others have .9."""
    cells = of(data("similarity_map", page), "lora")
    assert set(cells["matrix"]) == {"layer.0.query"} and len(cells) == 100
    rows = data("one_intruder", page)
    vectors = rows.groupby("tuned_index")[["largest", "intruder"]].first()
    assert vectors["intruder"].sum() == 1 and vectors.loc[vectors["intruder"], "largest"].item() == 0.25
    assert rows.loc[rows["intruder"], "value"].tolist() == [0.1] * 10


def test_sequence_grid_is_the_mean_of_the_items(tmp_path: Path) -> None:
    import json

    folder = make_run(tmp_path, "method=lora", "rank=4")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    record["config"]["sequence"] = ["first", "second"]
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    shares = {(0, "first"): 0.2, (0, "second"): 0.4, (1, "first"): 1.0, (1, "second"): 0.6, (2, "first"): 0.8}
    shares[2, "second"] = 1.0
    items = pd.read_parquet(folder / "items.parquet")
    new = [
        items.head(5).assign(
            phase="after", split=f"forgetting/sequence/{stage}/{task}", score=[1.0] * right + [0.0] * (5 - right)
        )
        for (stage, task), share in shares.items()
        for right in [round(5 * share)]
    ]
    pd.concat([items, *new]).to_parquet(folder / "items.parquet")
    (one,) = pages(read_runs(tmp_path).table)
    rows = data("sequence_grid", one)
    assert {(row.stage, row.task): row.value for row in rows.itertuples()} == pytest.approx(shares)
    assert rows["after"].drop_duplicates().tolist() == ["untouched", "1 first", "2 second"]


@pytest.fixture
def two_tasks(tmp_path: Path) -> pd.DataFrame:
    shown = {"lora": 0.9, "full": 0.6, "bitfit": 0.62}
    for task, seed, (method, score) in product(("trec", "boolq"), range(2), shown.items()):
        made = Made(score + 0.01 * seed, base=0.2, data=task * 16)
        make_run(tmp_path, f"method={method}", "rank=8", f"task={task}", seed=seed, made=made)
    return read_runs(tmp_path).table


def test_several_tasks_have_a_page_of_all_their_runs(two_tasks: pd.DataFrame) -> None:
    assert [page.several for page in every_page(two_tasks)] == [False, False, True]
    assert [page.several for page in every_page(two_tasks[two_tasks["task"] == "trec"])] == [False]
    whole = list(every_page(two_tasks))[-1]
    assert (whole.model, whole.task, len(whole.table)) == ("1 model", "2 tasks", 12)
    rows = data("across", whole)
    assert rows["configuration"].unique().tolist() == ["lora r8", "bitfit", "full"]
    ranks = rows[rows["panel"].str.startswith("mean rank")].set_index("configuration")["value"]
    assert ranks.to_dict() == {"lora r8": 1, "bitfit": 2, "full": 3}
    middle = rows[rows["panel"].str.startswith("interquartile")].set_index("configuration")["value"]
    assert middle["full"] == pytest.approx((0.605 - 0.2) / 0.8)  # (x − base)/(1 − base)
    first = rows[rows["panel"].str.startswith("P(")].set_index("configuration")["value"]
    assert first.to_dict() == {"bitfit": 1, "full": 1}
    assert all(len(ids.split()) == 4 for ids in rows["ids"])


@pytest.mark.slow
def test_the_picture_over_tasks_is_drawn_once_beside_each_tasks_own(two_tasks: pd.DataFrame, tmp_path: Path) -> None:
    draw_all(Settings((str(tmp_path),), out=str(tmp_path / "out"), only=("across", "pareto"), formats=("svg",)))
    names = sorted(path.stem for path in (tmp_path / "out").glob("*.svg"))
    assert names == ["across-1_model-2_tasks", "pareto-bert_tiny-boolq", "pareto-bert_tiny-trec"]


def test_lambda_curves_in_per_cent_or_where_that_is_undefined_as_differences(sweep: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path, "method=lora", "rank=4")
    rows = []
    for curve in ("intruder", "neighbour"):
        for factor in (0.0, 1.0, 2.0):
            for of_, percent in (("task", 5.0 * (factor - 1)), ("lm_loss", None)):
                rows.append(
                    {"run": folder.name, "mode": "top", "curve": curve, "lambda": factor, "of": of_, "metric": "m"}
                    | {"headline": True, "delta": factor - 1, "delta_low": factor - 1.5, "delta_high": factor - 0.5}
                    | {
                        "percent": percent,
                        "percent_low": percent and percent - 1,
                        "percent_high": percent and percent + 1,
                    }
                )
    (folder / "analysis").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "analysis" / "lambda.parquet")
    (one,) = pages(read_runs(tmp_path).table)
    found = data("lambda_curves", one)
    task, lost = (found[(found["of"] == name) & (found["curve"] == "intruder")] for name in ("task", "lm_loss"))
    assert task["value"].tolist() == [-5, 0, 5] and set(task["unit"]) == {"percent"}
    assert lost["value"].tolist() == [-1, 0, 1] and set(lost["unit"]) == {"delta"}


@pytest.mark.slow
def test_the_figure_by_rank_shows_every_control_and_the_main_ones_quantiles(page: Page) -> None:
    """The random changes of equal spectrum are what a count is held against: they may not be left out."""
    (figure,) = figures(("intruders_rank",))
    found = figure.data(page)
    dense = found[found["control"] == "dense"]
    spectrum = dense.assign(control="spectrum", value=3.0, low=1.0, high=7.0)
    found = pd.concat([found[found["control"] != "spectrum"], spectrum], ignore_index=True)
    chart = figure.chart(found, Look.of(page.table)).to_dict()
    (drawn,) = chart["datasets"].values()
    shown = [row for row in drawn if row.get("null")]
    glyphs = {row["null"] for row in shown}
    assert len(glyphs) == found["control"].nunique() - 1
    (main,) = {row["null"] for row in shown if row["value"] == 3}
    for row in shown:
        assert (row["low"], row["high"]) == ((1, 7) if row["null"] == main else (None, None))
    assert figure.marks.startswith(f"grey: {main} random, same spectrum")


def mitigated(folder: Path) -> None:
    """Write curves of two mitigations and of one checkpoint: λ = 1 at a score of .9, as forgotten as λ."""
    rows = []
    for curve, factors in {"shrunk": (0.0, 0.5, 1.0, 2.0), "stopped": (0.5, 1.0)}.items():
        for factor in factors:
            place = {"run": folder.name, "key": "k", "mode": "mitigation", "curve": curve, "lambda": factor}
            ends = {"low": 0.0, "high": 1.0, "headline": True, "at_one": 0.9, "base": 0.1, "higher_is_better": True}
            for of_, metric, value in (("task", "accuracy", 0.4 + factor / 2), ("recall", "mrr", 1 - factor / 2)):
                rows.append(place | ends | {"of": of_, "metric": metric, "value": value})
                rows.append(rows[-1] | {"mode": "top", "value": 7.0})
                rows.append(rows[-1] | {"headline": False, "value": 8.0})
    (folder / "analysis").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "analysis" / "lambda.parquet")


def test_mitigations_are_walks_of_a_probe_over_the_tasks_score(tmp_path: Path) -> None:
    mitigated(make_run(tmp_path, "method=lora", "rank=4"))
    (one,) = pages(read_runs(tmp_path).table)
    found = data("mitigations", one)
    walks = dict(iter(found.groupby("curve")))
    assert walks["shrunk"][["lambda", "score", "value"]].to_numpy().tolist() == [
        [0, 0.4, 1],
        [0.5, 0.65, 0.75],
        [1, 0.9, 0.5],
    ]
    assert walks["stopped"]["score"].tolist() == [0.65, 0.9] and set(found["of"]) == {"recall"}
    (figure,) = figures(("mitigations",))
    (panel,) = figure.chart(found, Look.of(one.table)).to_dict()["concat"]
    (line,) = [layer for layer in panel["layer"] if layer["mark"]["type"] == "line"]
    assert line["encoding"]["order"]["field"] == "lambda"


def test_curves_of_other_models_are_none_over_lambda(tmp_path: Path) -> None:
    mitigated(make_run(tmp_path, "method=lora", "rank=4"))
    folder = next(tmp_path.iterdir())
    rows = pd.read_parquet(folder / "analysis" / "lambda.parquet")
    rows = rows.assign(
        **dict.fromkeys(("percent", "percent_low", "percent_high", "delta", "delta_low", "delta_high"), 0.0)
    )
    rows.to_parquet(folder / "analysis" / "lambda.parquet")
    (one,) = pages(read_runs(tmp_path).table)
    assert set(data("lambda_curves", one)["curve"]) == {"shrunk"}


def test_two_lengths_of_training_are_two_series_and_never_one_mean(tmp_path: Path) -> None:
    for steps in (8, 16):
        make_run(tmp_path, "method=lora", "rank=4", f"train.max_steps={steps}", made=Made(accuracy=steps / 20))
    (one,) = pages(read_runs(tmp_path).table)
    rows = data("score_parameters", one)
    assert sorted(rows["setting"]) == ["max_steps=16", "max_steps=8"]
    assert sorted(rows["value"]) == pytest.approx([0.4, 0.8])


def test_a_copied_run_counts_once(sweep: Path, tmp_path: Path, page: Page) -> None:
    run = next(path for path in sweep.iterdir() if path.name.startswith("lora"))
    shutil.copytree(sweep, tmp_path / "sweep")
    shutil.copytree(run, tmp_path / "copy")
    (one,) = pages(read_runs(tmp_path).table)
    assert len(one.table) == len(page.table)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Return a page of a searched LoRA, one of rank 8 whose search ended too soon, and an old sweep of full."""
    folder = tmp_path_factory.mktemp("searched")
    tried = {2: {1e-3: 0.7, 1e-2: 0.5, 1e-4: 0.6}, 8: {1e-3: 0.6, 1e-2: None, 1e-4: 0.5}}
    for rank, warning in ((2, ""), (8, "search.max_runs=3 reached: a smaller rate may be better")):
        found = search_record(tried[rank], 1e-3, warning)
        make_run(folder, "method=lora", f"rank={rank}", rate=1e-3, search=found, made=Made(accuracy=0.9))
    for rate in (1e-5, 1e-4):
        make_run(folder, "method=full", rate=rate, made=Made(accuracy=0.8, validation=0.6 + 1000 * rate))
    (only,) = pages(read_runs(folder).table)
    return only


def test_score_against_rate_of_a_search_is_what_validation_said(searched: Page) -> None:
    rows = of(data("score_rate", searched), "lora", 2)
    assert rows["learning_rate"].tolist() == [1e-4, 1e-3, 1e-2]
    assert rows["value"].tolist() == pytest.approx([0.6, 0.7, 0.5])  # .9 on the test split is none of them
    assert (rows["low"] < rows["value"]).all() and (rows["value"] < rows["high"]).all()
    assert rows["learning_rate"][rows["chosen"]].tolist() == [1e-3]
    assert set(rows["split"]) == {"validation"} and set(rows["interval"]) == {"items"}
    assert rows["ids"].tolist() == ["run-0.0001", "run-0.001", "run-0.01"]


def test_a_rate_that_diverged_and_a_search_that_ended_too_soon_are_marked(searched: Page) -> None:
    rows = of(data("score_rate", searched), "lora", 8)
    assert rows["value"].isna().tolist() == [False, False, True]
    assert rows["warning"].all() and not of(data("score_rate", searched), "lora", 2)["warning"].any()
    (figure,) = figures(("score_rate",))
    assert "encircled: the chosen rate" in heading(figure, searched, data("score_rate", searched))[-1]


def test_old_sweeps_stay_on_the_test_split_beside_searches(searched: Page) -> None:
    found = data("score_rate", searched)
    rows = of(found, "full")
    assert set(rows["split"]) == {"test"} and rows["value"].tolist() == [0.8, 0.8]
    assert rows["learning_rate"][rows["chosen"]].tolist() == [1e-4]
    assert set(found["panel"]) == {"lora (validation)", "full (test)"}


def test_the_chosen_rate_of_a_sweep_is_marked_and_one_split_is_said_once(page: Page) -> None:
    rows = of(data("score_rate", page), "lora", 8)
    assert rows["learning_rate"][rows["chosen"]].tolist() == [RATES[1]]
    assert set(rows["panel"]) == {"lora"}
    (figure,) = figures(("score_rate",))
    assert '"title": "test accuracy"' in figure.chart(data("score_rate", page), Look.of(page.table)).to_json()


def test_the_heading_counts_the_searchs_own_seed_and_runs(searched: Page) -> None:
    found = data("score_rate", searched)
    (figure,) = figures(("score_rate",))
    assert {"1 seed", "3 runs"} <= set(heading(figure, searched, of(found, "lora")))
