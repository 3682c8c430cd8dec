"""What a run computes on is resolved once: no variable of the environment and no other run may change it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
import small_runs
import torch
from command_line import call
from small_runs import run

from harness import runtime
from harness.errors import ConfigError
from harness.run import cli
from harness.runtime import BACKENDS, RECORDED, refuse_environment, settings_kept

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_USE_CPU", "true"),
        ("FSDP_VERSION", "2"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
    ],
)
def test_variables_that_would_change_a_result_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value}: ") as error:
        refuse_environment({name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "1"), ("ACCELERATE_LOG_LEVEL", "info"), ("HOME", "/x")])
def test_variables_that_change_nothing_are_let_through(name: str, value: str) -> None:
    refuse_environment({name: value})


def test_the_command_refuses_in_one_line_before_anything_is_trained(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would compute in bfloat16 a run whose record says bf16: false."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    overrides = ["model=bert_tiny", *small_runs.task("classification", data_folder), f"output_dir={tmp_path}"]
    done = call(cli, "tracker=none", "forgetting=none", *overrides, cwd=ROOT)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("harness: ACCELERATE_MIXED_PRECISION=bf16: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_variables_that_may_round_otherwise_stand_in_the_record(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    for name in RECORDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    _, record = run(tmp_path, "model=bert_tiny", *small_runs.task("classification", data_folder), "train.max_steps=1")
    assert record["runtime"]["environment"] == {"MKL_CBWR": "COMPATIBLE"}
    assert (record["runtime"]["device"], record["runtime"]["threads"]) == ("cpu", torch.get_num_threads())
    assert record["runtime"]["kernels"] == torch.backends.cpu.get_cpu_capability()
    assert record["runtime"]["optimizer"] == "adamw_torch"


@pytest.mark.slow
def test_what_the_machine_decides_is_resolved_and_recorded(
    data_folder: Path, llama_folder: Path, tmp_path: Path, quick: None
) -> None:
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    _, record = run(tmp_path, *model, "method=qlora", "train.max_steps=1", "train.use_cpu=true")
    assert record["config"]["method"]["compute_dtype"] is None  # as given: the same run on any machine
    assert record["runtime"]["method"] == {"compute_dtype": "float32", "paged": False}
    from harness.execution.reload import config_of

    record["runtime"]["method"]["compute_dtype"] = "bfloat16"  # as a GPU would have trained it
    assert config_of(record).method.compute_dtype == "bfloat16"


def test_settings_of_the_whole_process_are_put_back() -> None:
    before = (BACKENDS.fp32_precision, torch.are_deterministic_algorithms_enabled(), dict(os.environ))
    with settings_kept():
        BACKENDS.fp32_precision = "tf32"
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        os.environ |= {"ACCELERATE_DYNAMO_BACKEND": "inductor", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    after = (BACKENDS.fp32_precision, torch.are_deterministic_algorithms_enabled(), dict(os.environ))
    assert before == after and not torch.backends.cudnn.deterministic


def test_tf32_and_determinism_hold_for_the_run_alone(tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path, "train.tf32=true", "train.full_determinism=true")
    with runtime.resolve(config).settings():
        assert BACKENDS.fp32_precision == "tf32" and torch.are_deterministic_algorithms_enabled()
    assert BACKENDS.fp32_precision == "none" and not torch.are_deterministic_algorithms_enabled()


def test_arguments_leave_nothing_behind(tmp_path: Path) -> None:
    """transformers sets a variable of accelerate's for compiled training, by which the next run would compile too."""
    from harness.training.arguments import check_arguments

    config = small_runs.configure(tmp_path, "train.torch_compile=true")
    before = dict(os.environ)
    check_arguments(config, runtime.resolve(config))
    assert dict(os.environ) == before
    refuse_environment(os.environ)


def test_nothing_else_asks_for_a_gpu_or_sets_what_torch_holds() -> None:
    asked = {"is_available", "device_count", "use_deterministic_algorithms", "allow_tf32", "fp32_precision"}
    allowed = {"harness/runtime.py", "harness/training/arguments.py"}
    for path in (ROOT / "harness").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name not in allowed:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & asked
            assert not found, f"{name}: {found}"
