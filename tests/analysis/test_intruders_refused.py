"""What the command of intruder dimensions refuses, each in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import small_runs
import torch
from test_weights import edit, save_adapter, save_base
from tiny_models import perturb, tiny

from analysis.intruders import COMMAND, Settings, work
from harness.errors import ConfigError

BAD = {
    "k=0": "k=0: must be at least 1",
    "k=ten": "k=ten: must be a valid integer",
    "eps=1": "eps=1.0: must be above 0 and below 1",
    "eps=0": "eps=0.0: must be above 0 and below 1",
    "eps=nan": "eps=nan: must be a finite number",
    "algorithm=eigne": "did you mean eigen?",
    "algorithm=certified": "algorithm=certified: is withdrawn: its proofs rested on constants that measurements exceed",
    "draws=0": "draws=0: must be at least 1",
    "algoritm=svd": "did you mean algorithm?",
    "jobs=0": "jobs=0: must be at least 1",
    "similarity=all": "similarity=all: must be a valid integer or 'whole'",
    "controls=maybe": "controls=maybe: must be a valid boolean",
    "no-such-folder": "run=no-such-folder: there is no such folder",
    "base=a": "must be given together with base=",
    "tuned=a": "must be given together with tuned=",
    "base=a tuned=b": "out=: must be given",
    "base=a base=b": "given twice",
    "modules=": "needs a value",
    "": "give run folders",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments_are_named(text):
    with pytest.raises(ConfigError) as caught:
        COMMAND.parse(text.split())
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_are_checked_before_torch_is_imported():
    code = """
import sys
from analysis.intruders import COMMAND
sys.argv = ['x', 'eps=2']
try:
    COMMAND.main()
finally:
    print('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("False\n", 1)
    assert done.stderr == "intruders: eps=2.0: must be above 0 and below 1\n"


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        work(COMMAND.parse(list(arguments)))
    return str(caught.value)


def test_k_beyond_a_matrix_is_refused_with_its_name(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    text = refused(f"base={base}", f"tuned={tmp_path / 'adapter'}", "k=17", f"out={tmp_path / 'out'}")
    assert "k=17: is larger than model.layers.0.self_attn.k_proj.weight, which is 16 x 32" in text
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_none_is_refused_with_the_nearest_preset(tmp_path):
    save_adapter("llama", tmp_path / "adapter")
    assert "did you mean smollm2_135m?" in refused("base=smolm2_135m", f"tuned={tmp_path / 'adapter'}", "out=x")


def test_an_adapter_that_names_another_base_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base")
    other = tiny("llama").model
    perturb(other)
    other.save_pretrained(tmp_path / "other")
    model = save_adapter("llama", tmp_path / "adapter")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "other")
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    text = refused(f"base={base}", f"tuned={tmp_path / 'adapter'}", f"out={tmp_path / 'out'}")
    assert "is of another base" in text and "weight differs" in text


@pytest.mark.slow
def test_a_base_changed_since_the_run_is_refused(tmp_path, data_folder):
    base = small_runs.write_decoder("llama", tmp_path / "base")
    edit(base, model__norm__weight=torch.full((32,), 2.0))  # no other test's model: a process keeps one of each content
    overrides = [
        f"model.path={base}",
        *small_runs.task("classification", data_folder),
        "method=lora",
        "rank=2",
        "train.max_steps=1",
    ]
    folder, _ = small_runs.run(tmp_path / "runs", *overrides)
    model = tiny("llama").model
    model.save_pretrained(base)
    from harness.errors import RecordError

    with pytest.raises(RecordError, match="has changed since the run"):
        work(Settings(runs=(str(folder),)))
