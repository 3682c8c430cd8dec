"""What whole runs in tests share: small data files, tiny decoders on disk, one cache of what runs have in common."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it: a process a core, each with one thread
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import small_runs
import torch


@pytest.fixture(scope="session")
def _frozen() -> None:
    """Keep the imported libraries out of garbage collections, of which each run does two."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _unhurried_by_others() -> Iterator[None]:
    """Spare each of many hundred tiny runs what others' code takes of it: a quarter, and more on a busy disk.

    PEFT compiles the template of its model card at each save; flushing files to the disk matters in a power cut alone.
    """
    import jinja2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "from_string", cache(jinja2.Environment.from_string))
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def quick(_frozen: None) -> Iterator[None]:
    """Make tiny runs fast: two threads would wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread(_frozen: None) -> Iterator[None]:
    """Do what `quick` does for all of a file, whose tests share a run: with more threads it would round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder of a Llama with 2 layers of width 32 and its own tokenizer."""
    return small_runs.write_decoder("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder of a GPT-2 with 2 layers of width 32 and its own tokenizer."""
    return small_runs.write_decoder("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def short_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder of the first two layers of SmolLM2."""
    return small_runs.write_short_smollm2(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small file for each kind of task."""
    return small_runs.write_data(tmp_path_factory.mktemp("data"))
