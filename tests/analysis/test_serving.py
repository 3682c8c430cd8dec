"""What serving takes: times of a clock that is played, bytes by formulas, whole commands on tiny runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small_runs
import torch
from command_line import call
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.serving import COMMAND
from analysis.views.serving import measure
from analysis.views.serving.measure import Load, Timed, timed, weights_bytes
from analysis.views.serving.rows import Ratio, middle, ratio
from harness import runtime
from harness.storage.record import read_record

LAYERS, HEADS, WIDTH = 2, 2, 32
KEYS = WIDTH // 4 * HEADS
"""Width of a layer's keys: 2 key and value heads of 8."""


def llama(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": HEADS}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **options))


@pytest.fixture(scope="module")
def here() -> runtime.Runtime:
    return runtime.resolve(small_runs.configure("unused"))


def times(values: list[float]) -> list[Timed]:
    return [Timed(value, value / 10, 1 / value, 0) for value in values]


def test_seconds_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch, here: runtime.Runtime) -> None:
    """A clock that says 0 at the request, 3 at the first token and one more at each of four others."""
    played = itertools.chain([0.0], itertools.count(3.0))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(played))
    found = timed(llama(), Load(prompt=6, tokens=5, batch=2), here)
    assert (found.first, found.token) == (3.0, 1.0)
    assert found.throughput == pytest.approx(2 * 5 / 7)


@pytest.mark.parametrize(("prompt", "tokens", "batch"), [(6, 5, 2), (9, 2, 1)])
def test_the_cache_holds_a_key_and_a_value_a_position(
    prompt: int, tokens: int, batch: int, here: runtime.Runtime
) -> None:
    found = timed(llama(), Load(prompt, tokens, batch), here)
    positions = prompt + tokens - 1  # the last token is never read
    assert found.cache == 2 * LAYERS * KEYS * positions * batch * 4


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_are_shared_count_once(tied: bool, tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").stat().st_size  # its header apart
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert 0 <= file - (weights_bytes(model) - buffers) < 8000


def test_four_bits_count_their_scales() -> None:
    """NF4 in blocks of 64 with one float32 scale each: half a byte a weight and a sixteenth."""
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(64, 128, bias=False, compress_statistics=False, quant_type="nf4").to("cpu")
    layer(torch.ones(1, 64))  # quantised at its first use at the latest
    codes = 16 * 4
    assert weights_bytes(layer) == 64 * 128 // 2 + 64 * 128 // 64 * 4 + codes


def test_a_ratio_is_taken_within_turns() -> None:
    """A machine that becomes ten times slower leaves every turn's ratio at 1.5."""
    base = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 10.0]
    found = ratio(times([1.5 * value for value in base]), times(base), lambda one: one.first)
    assert found == Ratio(1.5, 1.5, 1.5, 7)


def test_the_interval_of_nine_turns_is_from_the_second_to_the_eighth() -> None:
    """P(2nd <= median <= 8th) = 1 - 2 (1 + 9) / 2^9 = .961, the narrowest of at least .95 (binomial)."""
    base = times([1.0] * 9)
    found = ratio(times([1.08, 1.0, 1.02, 1.01, 1.07, 1.05, 1.03, 1.04, 1.06]), base, lambda one: one.first)
    assert (found.value, found.low, found.high) == (1.04, 1.01, 1.07)
    assert middle([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.98, 1.03, "no added latency of 5% or more"),
        (1.1, 1.4, "slower, by at least 10.0%"),
        (0.9, 1.2, "undecided: up to 20.0% more is possible"),
    ],
)
def test_the_interval_decides(low: float, high: float, said: str) -> None:
    assert Ratio(1.0, low, high, 9).verdict(0.05) == said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> Callable[..., Path]:
    runs = tmp_path_factory.mktemp("serving")

    def one(name: str, *model: str) -> Path:
        task = small_runs.task("classification", data_folder)
        steps = ["train.max_steps=2", "rank=4", "train.save_steps=0"]
        return small_runs.run(runs, *(model or (f"model.path={llama_folder}",)), *task, f"method={name}", *steps)[0]

    return one


QUICK = ("turns=6", "prompt_tokens=4", "new_tokens=3")


@pytest.mark.slow
def test_each_form_of_each_run_has_a_row(trained: Any, tmp_path: Path) -> None:
    folders = {name: trained(name) for name in ("lora", "prefix", "full", "lora_prefix")}
    ended = call(COMMAND.main, next(iter(folders.values())).parent, *QUICK, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    rows = pd.read_csv(tmp_path / "serving/serving.csv").set_index(["run", "form"])
    forms = {name: list(rows.loc[folder.name].index) for name, folder in folders.items()}
    assert forms == {
        "lora": ["base", "adapter on base", "merged"],
        "prefix": ["base", "adapter on base"],
        "full": ["base", "merged"],
        "lora_prefix": ["base", "adapter on base", "merged"],
    }
    assert (rows["turns"] == 6).all() and (rows[["first_token_s", "token_s", "tokens_per_s"]] > 0).all().all()
    lora, prefix = (rows.loc[folders[name].name] for name in ("lora", "prefix"))
    saved = read_record(folders["lora"])["parameters"]["saved_bytes"]
    assert lora.loc["adapter on base", "file_bytes"] == saved
    assert (
        lora.loc["merged", "weights_bytes"]
        == lora.loc["base", "weights_bytes"]
        < lora.loc["adapter on base", "weights_bytes"]
    )
    assert (
        lora.loc["merged", "cache_bytes"]
        == lora.loc["base", "cache_bytes"]
        < prefix.loc["adapter on base", "cache_bytes"]
    )
    said = [line for line in ended.stdout.splitlines() if " merged against its base: " in line]
    assert [line.split(" merged")[0] for line in sorted(said)] == ["full", "lora r4", "lora_prefix r4"]


@pytest.mark.slow
def test_what_cannot_be_served_says_why(trained: Any, tmp_path: Path) -> None:
    folder = trained("lora", "model=bert_tiny")
    ended = call(COMMAND.main, folder, *QUICK, cwd=tmp_path)
    assert ended.returncode == 1 and not (tmp_path / "serving").exists()
    assert ended.stderr == f"serving: {folder.name}: an encoder generates no tokens\n"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("turns=5", "serving: turns=5: must be at least 6, for an interval of 95 %"),
        ("new_tokens=1", "serving: new_tokens=1: must be at least 2, for a time between two tokens"),
        ("batch=0", "serving: batch=0: must be at least 1"),
        ("margin=1", "serving: margin=1.0: must be above 0 and below 1"),
    ],
)
def test_a_mistake_is_one_line(given: str, line: str, tmp_path: Path) -> None:
    ended = call(COMMAND.main, tmp_path, given, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, f"{line}\n")
