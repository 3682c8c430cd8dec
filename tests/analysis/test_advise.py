"""Advice about made runs whose effects are known, the constraints, and the command lines that it names."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, call
from made_runs import Made, make_run, make_sweep, search_record

from analysis.advise import COMMAND, Serve, asked, seconds
from analysis.records import read_runs
from analysis.views.advise import matrix
from analysis.views.advise.advice import Advice, Candidate, Pairs, lead
from analysis.views.advise.command import advise
from analysis.views.advise.constraints import Amount, State, duration, within
from analysis.views.advise.words import sentences
from analysis.views.report.page import page
from harness.errors import ConfigError
from harness.run import cli

LORA, FULL = "lora r8", "full"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "advice.md"


def command(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    return call(COMMAND.main, *arguments, cwd=cwd)


def advised(folder: Path, *arguments: str) -> Advice:
    settings = COMMAND.parse([str(folder), *arguments])
    (found,) = advise(settings, asked(settings))[0]
    return found


def states(found: Advice) -> dict[str, State]:
    return {one.label: one.state for one in found.candidates}


def forgetting(folder: Path, **changes: float) -> Path:
    """Write three seeds of each method, equal in everything but what they forget."""
    make_sweep(folder, tuple(changes), made=lambda method, *_: Made(forgetting=changes[method], agreement=1.0))
    return folder


def test_what_forgets_too_much_is_excluded_and_what_does_not_is_kept(tmp_path: Path) -> None:
    found = advised(forgetting(tmp_path, lora=0.3, full=2.7), "forget<=1")
    assert states(found) == {LORA: State.satisfied, FULL: State.violated}
    assert found.advised == found.leader == LORA
    assert list(found.excluded) == [FULL]
    assert re.fullmatch(r"forgets 2\.7 \[2\.\d+, 2\.\d+\] \(lm_loss made/loss\) against 1", found.excluded[FULL])
    text = command(tmp_path, "forget<=1").stdout
    assert [line for line in text.splitlines() if line.startswith("excluded: ")] == [
        f"excluded: full: {found.excluded[FULL]}"
    ]
    assert advised(tmp_path, "forget=1").excluded == found.excluded  # for shells in which < is not quoted


def test_a_limit_inside_of_the_interval_may_be_satisfied_and_the_experiment_says_how_to_know(tmp_path: Path) -> None:
    forgetting(tmp_path, lora=0.3, full=2.7)
    (one,) = (one for one in advised(tmp_path).candidates if one.label == LORA)
    assert one.forgetting is not None and one.forgetting.low < 0.3 < one.forgetting.high
    limit = (0.3 + one.forgetting.high) / 2  # half-way to the interval's end: a quarter of the variance is needed
    found = advised(tmp_path, f"forget<={limit:.6f}")
    assert states(found) == {LORA: State.possible, FULL: State.violated}
    assert found.advised == LORA and "None is shown to satisfy" in " ".join(sentences(found))
    (first, *_) = found.experiments
    assert first.question == f"does lora r8 forget less than {limit:g}"
    assert first.needs in ("about 12 seeds", "about 13 seeds")  # 3 seeds x 2²
    assert advised(tmp_path, f"forget<={one.forgetting.high + 1e-6}").possible == {}
    assert states(advised(tmp_path, "forget<=.29"))[LORA] is State.violated


def test_a_metric_that_falls_is_forgetting_too(tmp_path: Path) -> None:
    """Of a probe in which higher is better, -.4 is forgetting .4."""
    folder = forgetting(tmp_path, lora=-0.4, full=-0.1)
    for path in folder.glob("*/record.json"):
        path.write_text(
            path.read_text(encoding="utf-8").replace('"higher_is_better": false', '"higher_is_better": true')
        )
    found = advised(folder, "forget<=.2")
    assert states(found) == {LORA: State.violated, FULL: State.satisfied}


def test_forgetting_that_nobody_measured_may_be_anything(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda *_: Made(forgetting=None))
    found = advised(tmp_path, "forget<=1")
    assert set(found.possible.values()) == {"what it forgets was not measured"}


def test_a_limit_is_of_the_probe_that_most_runs_measured(tmp_path: Path) -> None:
    forgetting(tmp_path, lora=0.3, full=0.3, bitfit=0.3)
    for path in tmp_path.glob("bitfit*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["forgetting"]["lm_loss"]["version"] = 2
        path.write_text(json.dumps(record), encoding="utf-8")
    found = advised(tmp_path, "forget<=1")
    assert states(found) == {LORA: State.satisfied, FULL: State.satisfied, "bitfit": State.possible}
    assert "another probe or version" in found.possible["bitfit"]


def cheap_equal(folder: Path) -> Path:
    """Write lora and full the same in every answer, lora cheaper; bitfit cheapest, and of an unknown worth."""
    accuracy = {"lora": [0.8] * 3, "full": [0.8] * 3, "bitfit": [0.6, 0.9, 0.75]}
    take = {"lora": 12.0, "full": 40.0, "bitfit": 5.0}

    def made(method: str, rank: int, rate: float, seed: int) -> Made:
        best = 0.01 if method == "full" else 0.0  # full leads by validation
        return Made(
            accuracy[method][seed], 0.8 + best, items=1000, agreement=1.0, seconds=take[method], gib=take[method] / 10
        )

    make_sweep(folder, tuple(accuracy), made=made)
    return folder


def test_the_cheapest_equivalent_is_advised_and_a_cheaper_undecided_one_is_not(tmp_path: Path) -> None:
    found = advised(cheap_equal(tmp_path))
    assert found.leader == FULL
    assert found.equivalent == (LORA,)
    assert found.undecided == ("bitfit",)
    assert found.advised == LORA
    assert found.cheapest == {"seconds": LORA, "memory": LORA, "parameters": FULL}
    said = " ".join(sentences(found))
    assert "lora r8 is equivalent to it within 0.02." in said
    assert "bitfit is undecided against it, which is not equivalent." in said
    (first, *_) = found.experiments
    assert {"bitfit", "full"} <= set(first.question.split())


def test_where_nothing_is_shown_to_be_equivalent_nothing_stands_in(tmp_path: Path) -> None:
    found = advised(cheap_equal(tmp_path), "margin=.0001")
    assert (found.equivalent, found.advised) == ((), FULL)
    assert "nothing cheaper can stand in for it" in " ".join(sentences(found))


def test_what_is_shown_to_be_worse_is_not_among_the_undecided(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda method, *_: Made(accuracy=0.9 if method == "lora" else 0.6))
    found = advised(tmp_path)
    assert (found.leader, found.worse, found.undecided, found.experiments[:-1]) == (LORA, (FULL,), (), ())
    assert "lora" not in found.untried and "prefix" in found.untried


def test_the_validation_split_leads_and_not_the_best_on_the_test_split() -> None:
    def one(label: str, score: float, validation: float) -> Candidate:
        amount = Amount("accuracy", score, score, score)
        return Candidate(label, State.satisfied, (), amount, validation, True, 3, *[None] * 4)

    lucky, steady = one("lucky", 0.9, 0.7), one("steady", 0.8, 0.75)
    nothing = Pairs({}, {})
    assert lead([lucky, steady], nothing) is steady
    assert lead([lucky, one("steady", 0.8, math.nan)], nothing) is lucky  # nothing else is at hand
    assert lead([], nothing) is None


def test_what_is_shown_to_be_better_among_those_that_may_is_said(tmp_path: Path) -> None:
    change = {"lora": 0.1, "full": 0.3}
    make_sweep(tmp_path, made=lambda m, *_: Made(accuracy=0.9 if m == "full" else 0.6, forgetting=change[m]))
    found = advised(tmp_path, "forget<=.31")
    assert (found.leader, found.better) == (LORA, (FULL,))


def test_training_time_is_what_this_machine_measured(tmp_path: Path) -> None:
    cheap_equal(tmp_path)
    found = advised(tmp_path, "train<=.5min")
    assert found.excluded == {FULL: "trains 40 s against 30 s"}
    assert found.possible == {}
    for path in tmp_path.glob("*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["machine"]["processor"] = "another"
        path.write_text(json.dumps(record), encoding="utf-8")
    other = advised(tmp_path, "train=30s")
    assert set(other.possible) == {LORA, "bitfit"}
    assert other.possible[LORA] == "trains 12 s on another, another machine than this against 30 s"


@pytest.mark.parametrize(
    ("found", "most", "state"),
    [
        (Amount("x", 0.3, 0.2, 0.4), 0.5, State.satisfied),
        (Amount("x", 0.3, 0.2, 0.4), 0.4, State.satisfied),
        (Amount("x", 0.3, 0.2, 0.4), 0.35, State.possible),
        (Amount("x", 0.3, 0.2, 0.4), 0.25, State.violated),
        (Amount("x", 0.3, math.nan, math.nan), 0.35, State.possible),
        (Amount("x", math.nan, math.nan, math.nan), 0.35, State.violated),
    ],
)
def test_the_interval_satisfies_and_the_estimate_may(found: Amount, most: float, state: State) -> None:
    assert within(found, most) is state


@pytest.mark.slow
def test_a_card_excludes_what_does_not_fit_and_plans_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(tmp_path)
    monkeypatch.setattr(matrix, "registered", lambda: iter(()))  # a plan of each that was not tried takes seconds
    found = advised(tmp_path, "gpu=24GiB")
    assert set(states(found).values()) == {State.satisfied}
    small = advised(tmp_path, "gpu=460MiB")  # CUDA's own 450 MiB leave 10
    assert set(small.excluded) == {LORA, FULL}
    assert re.fullmatch(r"needs [\d.]+ to [\d.]+ GiB of 0\.4 at batch 4 x 64", small.excluded[FULL])
    named = advised(tmp_path, "gpu=l40s", "train<=1h")
    assert set(states(named).values()) == {State.satisfied}
    assert all("on l40s (8 steps)" in one.checks[0].said for one in named.candidates)
    (full,) = (one for one in named.candidates if one.label == FULL)
    assert full.memory is not None and full.memory.name == "planned memory"


@pytest.mark.slow
def test_how_it_is_served_is_tried(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "full", "prefix"))
    merged = advised(tmp_path, "serve=merged")
    assert merged.excluded == {
        "prefix": "cannot be merged into a plain model: what prefix trains cannot be folded into the base's weights"
    }
    assert "bitfit" in merged.untried and "prompt" not in merged.untried
    swapped = advised(tmp_path, "serve=adapter")
    assert list(swapped.excluded) == [FULL]


def test_runs_that_are_not_done_are_out_with_their_reason(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    make_run(tmp_path, "method=prefix", made=Made(status="not_applicable", reason="takes no past"))
    make_run(tmp_path, "method=prompt", made=Made(status="failed", reason="out of memory"))
    found = advised(tmp_path)
    assert found.excluded == {"prefix": "not applicable: takes no past", "prompt": "failed: out of memory"}


def test_a_record_that_this_version_cannot_read_whole_may_satisfy_anything(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    for path in tmp_path.glob("full*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["config"]["method"]["later"] = 1
        path.write_text(json.dumps(record), encoding="utf-8")
    found = advised(tmp_path, "serve=merged", "forget<=1")
    assert states(found) == {LORA: State.satisfied, FULL: State.possible}
    assert "no such key in this version" in found.possible[FULL]


def test_each_model_and_task_is_advised_apart_and_data_chooses_one(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,))
    make_sweep(tmp_path, seeds=(0,), overrides=("task=sarcasm",))
    settings = COMMAND.parse([str(tmp_path)])
    every, _ = advise(settings, asked(settings))
    assert {one.where for one in every} == {"bert_tiny on trec", "bert_tiny on sarcasm"}
    assert advised(tmp_path, "data=sarcasm").where == "bert_tiny on sarcasm"
    with pytest.raises(ConfigError, match=r"data=sarcasms: no run has it; did you mean sarcasm\?"):
        advised(tmp_path, "data=sarcasms")


@pytest.mark.parametrize("searched", [False, True])
def test_the_experiments_command_trains_what_is_missing_and_nothing_twice(tmp_path: Path, searched: bool) -> None:
    """Harness' own dry run reads it: the seeds that are there are done, at the rate that was searched or given."""
    folder = tmp_path / "runs"
    for method, accuracy in {"lora": (0.6, 0.9, 0.75), "full": (0.8, 0.7, 0.75)}.items():
        for seed in range(3):
            more: dict[str, Any] = {"search": search_record({1e-3: 0.7}, 1e-3)} if searched else {}
            made = Made(accuracy=accuracy[seed])
            make_run(folder, f"method={method}", "rank=8", seed=seed, rate=1e-3, made=made, **more)
    found = advised(folder, "margin=.2")
    (one, *_) = (one for one in found.experiments if one.commands)
    assert one.question == "is full or lora r8 better by 0.2 or more, or neither"
    (wanted,) = re.findall(r"about (\d+) seeds each;", one.needs)
    assert len(one.commands) == 2
    for line in one.commands:
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "harness.run", "-m"]
        assert ("search=learning_rate" in words) == searched
        if not searched:  # a made search has no runs to replay
            ended = call(cli, *words[3:], "dry_run=true", cwd=tmp_path)
            assert ended.returncode == 0, ended.stderr
            assert f"{wanted} runs: {int(wanted) - 3} to train, 3 not" in ended.stdout


def test_one_seed_and_more_items_trains_that_seed_again(tmp_path: Path) -> None:
    """What one seed leaves undecided, more items may decide: the command has the seed and the larger test split."""
    folder = tmp_path / "runs"
    for method, accuracy in {"lora": 0.72, "full": 0.7}.items():
        made = Made(accuracy=accuracy, agreement=0.0)
        make_run(folder, f"method={method}", "rank=8", seed=3, rate=1e-3, made=made)
    (one,) = (one for one in advised(folder, "margin=.05").experiments if one.question.startswith("is "))
    (items,) = re.findall(r"about ([\d,]+) items", one.needs)
    assert len(one.commands) == 2
    for line in one.commands:
        words = shlex.split(line)
        assert {"seed=3", f"task.max_test={items.replace(',', '')}"} <= set(words)
        ended = call(cli, *words[3:], "dry_run=true", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert "1 runs: 1 to train" in ended.stdout


def test_the_answer_as_json(tmp_path: Path) -> None:
    cheap_equal(tmp_path)
    for argument in ("--json", "json=true"):
        found = json.loads(command(tmp_path, "forget<=1", argument).stdout)
        (one,) = found["advice"]
        assert (one["advised"], one["leader"], one["equivalent"]) == (LORA, FULL, [LORA])
        assert one["asked"] == {"forget": "forget<=1"}
        assert {each["label"]: each["state"] for each in one["candidates"]}[LORA] == "satisfied"
        assert one["text"].startswith("use lora r8 (trains 12 s, 1.20 GiB, 50,000 parameters). ")


@pytest.mark.slow
def test_the_page_has_the_same_advice(tmp_path: Path) -> None:
    cheap_equal(tmp_path)
    settings = asked(COMMAND.parse(["forget<=.05"]))
    text = page(read_runs(tmp_path), "Advice", asked=settings)
    assert "Advice: forget&lt;=.05" in text
    assert text.count("data-advice") == 1 and text.count("<li data-excluded>") == 3
    assert "Advice</h3>" in page(read_runs(tmp_path), "Advice")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gpu=24",), "gpu=24: has no unit; write 24GiB (2³⁰ bytes) or 24GB (10⁹ bytes)"),
        (("gpu=l40",), "gpu=l40: no such card; did you mean l40s?"),
        (("serve=fast",), "serve=fast: must be merged (one plain model) or adapter (several on one base)"),
        (("forget<=abc",), "forget<=abc: must be a number in the unit of the runs' forgetting, such as .1"),
        (("forget<=",), "forget=: needs a value"),
        (("train<=2",), "train<=2: has no unit; write 2s, 2min or 2h"),
        (("train<=2parsecs",), "train<=2parsecs: unknown unit parsec"),
        (("train<=soon",), "train<=soon: must be a time such as 90s, 30min or 2h"),
        (("train<=0h",), "train<=0h: must be above 0"),
        (("nowhere",), "runs=nowhere: there is no such folder"),
        (("gpus=24GiB",), "gpus=24GiB: no such option; did you mean gpu?"),
        (("margin=0",), "margin=0.0: must be above 0"),
        (("capabilities=some",), "capabilities=some: must be methods, or all"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ended = command(*arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"advise: {said}") and ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_folder_without_records_is_one_line(tmp_path: Path) -> None:
    ended = command(tmp_path)
    assert (ended.returncode, ended.stderr) == (
        1,
        f"advise: {tmp_path}: holds no run: there is no record.json in it or below\n",
    )
    make_run(tmp_path, "method=lora", made=Made(status="failed", reason="no"))
    assert "no run here has finished" in command(tmp_path).stderr


@pytest.mark.parametrize(
    ("text", "wanted"), [("2h", 7200), ("30 min", 1800), ("90s", 90), ("1.5hours", 5400), ("1d", 86400), (".5m", 30)]
)
def test_times_are_read_in_their_unit(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    ("number", "said"), [(4.61, "4.6 s"), (45, "45 s"), (3600, "1 h"), (90, "90 s"), (150, "2.5 min")]
)
def test_times_are_written_as_people_do(number: float, said: str) -> None:
    assert duration(number) == said


def test_constraints_are_read_before_anything_is() -> None:
    found = asked(COMMAND.parse(["gpu=80GB", "forget=-.1", "--train<=2h", "serve=adapter"]))
    assert found.gpu is not None and found.gpu.memory == 80 * 10**9
    assert (found.forget, found.seconds, found.serve) == (-0.1, 7200, Serve.adapter)
    assert list(found.said.values()) == ["gpu=80GB", "forget<=-.1", "train<=2h", "serve=adapter"]


@pytest.mark.slow
def test_without_runs_it_plans_and_marks_rules_of_thumb(tmp_path: Path) -> None:
    ended = command("model=bert_tiny", "gpu=l40s", "train<=1h", "serve=adapter", "forget<=1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("rule of thumb, not measured here: ") == 3
    rows = {line.split()[0]: line for line in ended.stdout.splitlines() if line.startswith("  ")}
    assert "satisfies all" in rows["lora"] and "excluded: cannot be swapped" in rows["full"]
    assert "forget<=1: what a method forgets takes runs to know" in ended.stdout
    training = next(line for line in ended.stdout.splitlines() if "harness.run" in line)
    dry = call(cli, *shlex.split(training)[3:], "dry_run=true", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    found = json.loads(command("model=bert_tiny", "--json", cwd=tmp_path).stdout)
    assert len(found["plans"]) == 10 and len(found["rules_of_thumb"]) == 3


def test_the_document_opens_with_the_question_and_its_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.startswith("# Advice\n\n*Which method should I use, ")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = [line.partition("  #")[0].strip() for line in blocks.splitlines()]
    cheap_equal(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in filter(None, map(shlex.split, lines)):
        assert words[:2] == ["python", "-m"]
        if words[2] == "analysis.advise":
            asked(COMMAND.parse(words[3:]))
            if words[3] == "runs/" and not any(word.startswith("gpu") for word in words):  # a plan takes seconds
                ended = command(*words[3:], cwd=tmp_path)
                assert ended.returncode == 0, (words, ended.stderr)
                ran += 1
    assert ran >= 3


def test_arguments_load_nothing_heavy() -> None:
    code = "import sys, analysis.advise; print({'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
