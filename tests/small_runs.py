"""Whole runs of seconds: tiny models and data written to disk, configurations of them, and runs compared."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness import runtime
from harness.compose import conf_folder, register, to_run_config
from harness.config import RunConfig
from harness.execution import session
from harness.execution.evaluate import Outcomes, Questions, evaluator
from harness.execution.execute import execute
from harness.storage import assets
from harness.storage.outcomes import read_items
from harness.storage.record import RunFolder, comparable, read_record

VOCABULARY = 320
GOOD = ("lovely", "great", "fine", "warm", "bright", "clever")
BAD = ("dull", "poor", "awful", "cold", "grim", "silly")
THINGS = ("film", "book", "song", "play", "meal", "garden", "house", "story", "picture", "talk")
PLACES = ("here", "in the city", "by the sea", "of my friend")
GROUPS = ("model", "task", "method", "tracker", "forgetting")
QUICK = (
    "tracker=none",
    "forgetting=none",
    "train.max_steps=4",
    "train.per_device_train_batch_size=4",
    "train.save_steps=2",
)
SMALL_PROBES = (
    "forgetting=default",
    "forgetting.documents=2",
    "forgetting.masked_documents=1",
    "forgetting.window=64",
    "forgetting.probes.divergence.task_items=6",
    "forgetting.probes.abilities.limit=4",
    "forgetting.probes.retrieval.questions=8",
    "forgetting.probes.retrieval.max_length=96",
)


def sentences() -> list[tuple[str, str]]:
    """Return 480 sentences with their labels."""
    return [
        (f"the {thing} {place} was {word}", label)
        for label, words in (("pos", GOOD), ("neg", BAD))
        for word in words
        for thing in THINGS
        for place in PLACES
    ]


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the sentences, and on nothing that it would need to be fetched for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text, _ in sentences()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.save_pretrained(folder)
    return fast


def write_decoder(architecture: str, folder: Path) -> Path:
    """Write a decoder of 2 layers and width 32 with random weights, the same at every call."""
    tokenizer = write_tokenizer(folder)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _gpt2(special) if architecture == "gpt2" else _llama(special)
        for parameter in model.parameters():  # larger than usual, so that different inputs give different answers
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def _llama(special: dict[str, Any]) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=256, **sizes, **heads, **special)
    )


def _gpt2(special: dict[str, Any]) -> GPT2LMHeadModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **special))


def write_short_smollm2(folder: Path) -> Path:
    """Write the first two of SmolLM2's thirty layers with its embedding and tokenizer: a run takes a fifth of the time.

    What a method meets in the model is there: its modules' names and widths, grouped heads, the tied output layer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = assets.fetch_model(configure("runs", "model=smollm2_135m").model, assets.cache_root(None)).folder
    model = AutoModelForCausalLM.from_pretrained(whole, local_files_only=True)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    model.config.layer_types = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole, local_files_only=True).save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """Write a small file for each kind of task: JSONL, CSV and Parquet."""
    rows = sentences()
    _jsonl(folder / "classification.jsonl", [{"text": text, "label": label} for text, label in rows])
    _jsonl(folder / "choice.jsonl", [_choice(number, text) for number, (text, _) in enumerate(rows)])
    _jsonl(folder / "instruction.jsonl", [{"text": text, "answer": text.split()[-1]} for text, _ in rows])
    with (folder / "regression.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["first", "second", "value"], *([text, text[::-1], len(text) / 10] for text, _ in rows)])
    _parquet(folder / "text.parquet", [{"text": f"{text}, and so was the rest of it."} for text, _ in rows])
    return folder


def _choice(number: int, text: str) -> dict[str, Any]:
    choices = ["yes", "it is not so", "no", "maybe it was not"][: 2 + number % 3]
    return {"question": text, "options": choices, "answer": "ABCD"[number % len(choices)]}


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def task(kind: str, data: Path) -> list[str]:
    """Return the overrides that choose a task of this kind over its small file."""
    files = {
        "classification": ("classification.jsonl", "text: text, label: label"),
        "multiple_choice": ("choice.jsonl", "text: question, choices: options, answer: answer"),
        "instruction": ("instruction.jsonl", "text: text, answer: answer"),
        "regression": ("regression.csv", "text: first, text_pair: second, label: value"),
        "language_modeling": ("text.parquet", "text: text"),
    }
    name, columns = files[kind]
    extra = {
        "classification": ["+task.labels={pos: ' very good', neg: ' bad'}", "task.template='{text} It is'"],
        "multiple_choice": ["task.template='{text}. True?'"],
        "instruction": ["task.template='{text}. How?'", "task.max_new_tokens=4"],
        "language_modeling": ["task.max_length=32"],
    }
    sizes = ["task.max_train=120", "task.max_validation=16", "task.max_test=24"]
    return [
        f"task={kind}",
        f"task.data.all.path={data / name}",
        f"+task.columns={{{columns}}}",
        *sizes,
        *extra.get(kind, []),
    ]


def small_probes(data: Path) -> list[str]:
    """Return the overrides of the default probes in small, over two of the small files as general text."""
    texts = {"openwebtext": "text.parquet", "wikipedia": "instruction.jsonl"}
    paths = [f"forgetting.texts.{name}.path={data / file}" for name, file in texts.items()]
    return [*SMALL_PROBES, *paths, *(f"forgetting.texts.{name}.column=text" for name in texts)]


def configure(output_dir: Path | str, *overrides: str) -> RunConfig:
    """Return the configuration of a quick run; later overrides win."""
    return replace(deepcopy(_composed(overrides)), output_dir=str(output_dir))


@cache
def _composed(overrides: tuple[str, ...]) -> RunConfig:
    by_key = {override.partition("=")[0].lstrip("+"): override.lstrip("+") for override in (*QUICK, *overrides)}
    chosen = tuple(by_key.pop(group) for group in GROUPS if group in by_key)
    return to_run_config(OmegaConf.merge(_composed_groups(chosen), OmegaConf.from_dotlist(list(by_key.values()))))


@cache
def _composed_groups(chosen: tuple[str, ...]) -> DictConfig:
    """Compose once for each choice of groups: it takes Hydra a quarter of a second."""
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose("config", overrides=list(chosen))
    OmegaConf.set_struct(composed, False)
    return composed


def run(output_dir: Path | str, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """Execute a quick run and return its folder and its record."""
    config = configure(output_dir, *overrides)
    execute(config)
    folder = folder_of(config)
    return folder, read_record(folder)


def answer(model: Any, objective: Any, questions: Questions, config: RunConfig) -> Outcomes:
    """Answer questions as a run of this configuration does."""
    return evaluator(config, runtime.resolve(config)).answer(model, objective, questions, "test")


def folder_of(config: RunConfig) -> Path:
    """Return a run's folder."""
    from harness.identity import run_id

    return RunFolder(config.output_dir, run_id(config)).path


def history(folder: Path) -> list[dict[str, Any]]:
    """Return a run's history without the clock."""
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a trained state."""
    return {
        f"{path.name}:{name}": tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def items(folder: Path) -> dict[str, Outcomes]:
    """Return a run's outcomes; NaN is replaced, for it equals nothing."""
    found = read_items(folder / "items.parquet")
    return json.loads(json.dumps(found, default=vars).replace("NaN", "null"))  # type: ignore[no-any-return]


def assert_same_run(one: Path, other: Path) -> None:
    """Require that two runs give the same record, history, outcomes and trained state, to the last bit."""
    assert comparable(read_record(one)) == comparable(read_record(other))
    assert history(one) == history(other)
    assert items(one) == items(other)
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
    assert_same_tensors(one / "trained", other / "trained")


def assert_same_tensors(one: Path, other: Path) -> None:
    """Require that two trained states are equal to the last bit."""
    first, second = tensors(one), tensors(other)
    assert first and first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def forget_prepared() -> None:
    """Make this process forget the data that earlier runs tokenised."""
    session._PREPARED.clear()
    session._SPLITS.clear()


def start_process(*overrides: str) -> subprocess.Popen[str]:
    """Start a run in a process of its own, with the overrides of :func:`configure`."""
    given = {override.partition("=")[0] for override in overrides}
    quick = [override for override in QUICK if override.partition("=")[0] not in given]
    # argparse takes flags in one row only
    flags, values = [o for o in overrides if o.startswith("-")], [o for o in overrides if not o.startswith("-")]
    command = [sys.executable, "-m", "harness.run", *flags, *quick, *values]
    # One thread, as in the tests themselves: another number of them may round otherwise.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
