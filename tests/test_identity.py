"""What makes two runs the same run, and what makes them two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs

from harness.errors import ConfigError
from harness.forgetting.probes.abilities import Abilities
from harness.forgetting.probes.retrieval import Retrieval
from harness.forgetting.texts import Text
from harness.identity import digest, identity, resolved, run_id
from harness.tasks.source import Source


@pytest.fixture
def base(data_folder: Path, llama_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]


def id_of(*overrides: str) -> str:
    return run_id(small_runs.configure("runs", *overrides))


@pytest.mark.slow
def test_rank_counts_only_where_it_is_used(base: list[str]) -> None:
    for method in ("full", "head_only", "prefix", "prompt", "bitfit", "adapter"):
        assert id_of(*base, f"method={method}", "rank=8") == id_of(*base, f"method={method}", "rank=16")
    for method in ("lora", "rslora", "qlora"):
        assert id_of(*base, f"method={method}", "rank=8") != id_of(*base, f"method={method}", "rank=16")
        assert id_of(*base, f"method={method}", "rank=8").startswith(f"{method}-r8-")
        assert id_of(*base, f"method={method}", "rank=8", "method.rank=4") == id_of(*base, f"method={method}", "rank=4")


@pytest.mark.parametrize(
    "override",
    [
        "model.note=a note",
        "model.licence=MIT",
        "model.name=another",
        "task.dataset=renamed",
        "task.citation=x",
        "task.source=x",
        "task.licence=x",
        "task.note=x",
        "train.logging_steps=7",
        "train.save_steps=0",
        "train.keep_checkpoints=true",
        "train.dataloader_num_workers=2",
        "sweep.name=x",
        "sweep.index=3",
        "sweep.wait=true",
        "tracker.project=x",
        "tracker=wandb",
        "cache_dir=elsewhere",
        "dry_run=true",
        "estimate=true",
        "rank=16",
    ],
)
def test_what_changes_no_result_changes_no_id(override: str, base: list[str]) -> None:
    assert id_of(*base, override) == id_of(*base)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "rank=8",
        "method=rslora",
        "method.dropout=0.1",
        "method.alpha=3",
        "train.learning_rate=0.5",
        "train.max_steps=5",
        "train.per_device_train_batch_size=5",
        "train.gradient_accumulation_steps=2",
        "train.weight_decay=0.1",
        "train.bf16=true",
        "train.lr_scheduler_type=cosine",
        "train.neftune_noise_alpha=1",
        "+train.other.use_liger_kernel=true",
        "model.dtype=bfloat16",
        "task.max_length=99",
        "task.max_train=50",
        "task.template='{text}'",
        "task.test_share=0.2",
        "+task.labels={pos: ' yes', neg: ' no'}",
    ],
)
def test_what_can_change_a_result_changes_the_id(override: str, base: list[str]) -> None:
    assert id_of(*base, override) != id_of(*base)


def test_default_learning_rate_is_the_rate_itself(base: list[str]) -> None:
    """Whether it is the method's own or was spelt out, the run is the same."""
    config = small_runs.configure("runs", *base)
    assert id_of(*base, f"train.learning_rate={config.method.learning_rate}") == id_of(*base)
    assert id_of(*base, "method.learning_rate=0.7") == id_of(*base, "train.learning_rate=0.7")
    assert resolved(config)["train"]["learning_rate"] == config.method.learning_rate


def test_a_factor_counts_within_the_rate(base: list[str]) -> None:
    given = [*base, "train.learning_rate=0.1", "train.learning_rate_factor=3"]
    assert id_of(*given) == id_of(*base, "train.learning_rate=0.3")
    plainly = small_runs.configure("runs", *base, "train.learning_rate=0.3")
    assert resolved(small_runs.configure("runs", *given))["train"] == resolved(plainly)["train"]
    own = small_runs.configure("runs", *base).method.learning_rate
    assert id_of(*base, "train.learning_rate_factor=2") == id_of(*base, f"train.learning_rate={2 * own}")


def test_files_count_by_content_and_not_by_place(
    base: list[str], data_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    before = id_of(*base)
    shutil.copytree(llama_folder, tmp_path / "model")
    shutil.copy(data_folder / "classification.jsonl", tmp_path / "rows.jsonl")
    moved = [*base, f"model.path={tmp_path / 'model'}", f"task.data.all.path={tmp_path / 'rows.jsonl'}"]
    assert id_of(*moved) == before
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "one more", "label": "pos"}\n')
    with_more_rows = id_of(*moved)
    assert with_more_rows != before
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with_other_weights = id_of(*moved)
    assert len({before, with_more_rows, with_other_weights}) == 3
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace("{", '{"x": 1,', 1), encoding="utf-8")
    assert id_of(*moved) != with_other_weights


@pytest.mark.parametrize("missing", ["model.path=no/such/model", "task.data.all.path=no/such/rows.jsonl"])
def test_files_that_are_not_there_are_named(missing: str, base: list[str]) -> None:
    with pytest.raises(ConfigError, match=missing.replace(".", r"\.")):
        id_of(*base, missing)


def test_identity_and_configuration_are_plain_json(base: list[str]) -> None:
    config = small_runs.configure("runs", *base)
    for made in (identity(config), resolved(config)):
        assert json.loads(json.dumps(made)) == made
    assert resolved(config)["task"]["kind"] == "classification"
    assert resolved(config)["method"]["name"] == "lora"


def test_digest_is_of_the_value_and_not_of_its_order() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, 2]) != digest([2, 1])
    assert len(digest({}, 16)) == 16


TASK = """
include: shared/defaults
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, validation: ["{folder}/more-*.jsonl", "https://example.org/rows.jsonl"]}}}}
process_docs: !function functions.kept
metric_list: [{{metric: acc, aggregation: !function metrics.mean.of_items}}]
"""
IdOf = Callable[[Any], str]


@pytest.fixture
def probed(base: list[str]) -> IdOf:
    """Return a function from a probe to the id of a run that takes it."""
    config = small_runs.configure("runs", *base)
    return lambda probe: run_id(replace(config, forgetting=replace(config.forgetting, probes={"mine": probe})))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Return a folder of an lm-eval task file and all that it names."""
    data, folder = tmp_path / "data", tmp_path / "tasks"
    for path in (data, folder / "shared", folder / "metrics"):
        path.mkdir(parents=True)
    files = {
        folder / "mine.yaml": TASK.format(rows=data / "rows.jsonl", folder=data),
        folder / "functions.py": "def kept(items): return items",
        folder / "metrics" / "mean.py": "def of_items(items): return sum(items) / len(items)",
        folder / "shared" / "defaults": "include: more.yaml\noutput_type: multiple_choice",
        folder / "shared" / "more.yaml": "doc_to_text: !function texts.of_item",
        folder / "shared" / "texts.py": "def of_item(item): return item['question']",
        data / "rows.jsonl": "{}",
        data / "more-1.jsonl": "{}",
    }
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")
    return folder


NAMED = ("mine.yaml", "functions.py", "metrics/mean.py", "shared/defaults", "shared/more.yaml", "shared/texts.py")


@pytest.mark.parametrize("edited", [*NAMED, "../data/rows.jsonl", "../data/more-1.jsonl"])
def test_every_file_that_a_task_file_names_is_counted(edited: str, tasks: Path, probed: IdOf) -> None:
    by_file, by_folder = Abilities(tasks=[str(tasks / "mine.yaml")]), Abilities(include_path=str(tasks))
    before = probed(by_file), probed(by_folder)
    with (tasks / edited).open("a", encoding="utf-8") as file:
        file.write("\n# edited")
    assert probed(by_file) != before[0] and probed(by_folder) != before[1]


def test_other_files_count_in_a_folder_of_tasks_alone(tasks: Path, probed: IdOf) -> None:
    by_file, by_folder = Abilities(tasks=[str(tasks / "mine.yaml")]), Abilities(include_path=str(tasks))
    before = probed(by_file), probed(by_folder)
    for cached in (tasks / "__pycache__" / "functions.pyc", tasks / ".git" / "index"):
        cached.parent.mkdir()
        cached.write_bytes(b"")
    assert (probed(by_file), probed(by_folder)) == before
    (tasks / "group.yaml").write_text("group: mine", encoding="utf-8")
    assert probed(by_file) == before[0] and probed(by_folder) != before[1]


def test_probed_files_count_by_content_and_not_by_place(
    tasks: Path, tmp_path: Path, probed: IdOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "home" / "moved"
    shutil.copytree(tasks, moved)
    rows = [shutil.copy(tmp_path / "data" / "rows.jsonl", folder / "rows.jsonl") for folder in (tmp_path, moved)]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for make in (
        lambda folder, _: Abilities(tasks=[f"{folder}/mine.yaml", "hellaswag"]),
        lambda folder, _: Abilities(tasks=["mine"], include_path=str(folder / "shared")),
        lambda _, rows: Retrieval(source=Source(path=str(rows))),
    ):
        assert (
            probed(make(tasks, rows[0]))
            == probed(make(moved, rows[1]))
            == probed(make(Path("~/moved"), "~/moved/rows.jsonl"))
        )
    assert probed(Abilities(tasks=["hellaswag"])) != probed(Abilities(tasks=["winogrande"]))


def test_rows_of_retrieval_and_of_texts_count(tmp_path: Path, base: list[str], probed: IdOf) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}", encoding="utf-8")
    config = small_runs.configure("runs", *base)
    probe = Retrieval(source=Source(path=str(rows)))
    text = replace(config.forgetting, probes={"mine": Retrieval()}, texts={"mine": Text(path=str(rows))})
    before = probed(probe), run_id(replace(config, forgetting=text))
    rows.write_text("{} ", encoding="utf-8")
    after = probed(probe), run_id(replace(config, forgetting=text))
    assert before[0] != after[0] and before[1] != after[1]


def test_probed_files_that_are_not_there_are_named(tmp_path: Path, base: list[str], probed: IdOf) -> None:
    gone = str(tmp_path / "gone.jsonl")
    config = small_runs.configure("runs", *base)
    with pytest.raises(ConfigError, match=r"probes\.mine\.source\.path=.*gone\.jsonl: there is no such file"):
        probed(Retrieval(source=Source(path=gone)))
    text = replace(config.forgetting, probes={"mine": Retrieval()}, texts={"mine": Text(path=gone)})
    with pytest.raises(ConfigError, match=r"texts\.mine\.path=.*gone\.jsonl: there is no such file"):
        run_id(replace(config, forgetting=text))
    task = tmp_path / "mine.yaml"
    task.write_text("include: gone.yaml", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"probes\.mine\.tasks\.0/gone\.yaml=.*gone\.yaml: there is no such file"):
        probed(Abilities(tasks=[str(task)]))


def test_task_files_may_be_no_yaml_and_include_one_another(tmp_path: Path, probed: IdOf) -> None:
    """What is wrong with them lm-eval says when it loads them."""
    for content in ("a: [", "include: mine.yaml", "- 1", "\x00"):
        (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
        probed(Abilities(tasks=[str(tmp_path / "mine.yaml")]))


def test_the_loss_without_logits_counts_for_decoders_and_not_for_encoders(base: list[str]) -> None:
    """It rounds otherwise; plain logits have the ids of the time when there was nothing else."""
    fused, plain = (small_runs.configure("runs", *base, f"train.fused_loss={way}") for way in ("true", "false"))
    assert run_id(fused) == id_of(*base) != run_id(plain)
    assert "fused_loss" not in identity(plain)["train"]
    encoder = ["model=minilm_l6", *base[2:]]
    assert id_of(*encoder) == id_of(*encoder, "train.fused_loss=false")
    given = [*base, "model.kind=encoder"]
    assert id_of(*given) == id_of(*given, "train.fused_loss=false")
