"""The command line on runs and on pairs of folders: tables, summary, controls, errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import probing
import pyarrow.parquet as pq
import pytest
import scipy.linalg
import small_runs
import torch
from independent import cosines
from rounding import OTHERWISE, ROUNDING, assert_same_but_for_rounding, gap, vectors_bound, without_flags
from test_weights import save_adapter, save_base
from torch import nn
from transformers.pytorch_utils import Conv1D

from analysis.intruders import COMMAND, Settings, work
from analysis.spectra.intruders import analyse
from analysis.spectra.intruders.controls import drawn
from analysis.spectra.intruders.sources import jobs
from analysis.spectra.intruders.tables import SCHEMAS
from analysis.spectra.weights import Matrix
from harness.errors import ConfigError
from harness.execution.reload import config_of, load_run
from harness.storage.files import write_json
from harness.storage.record import NO_WEIGHTS, read_record

METHODS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "rslora": ["method=rslora"],
    "dora": ["method=lora", "method.dora=true"],
    "pissa": ["method=lora", "method.init=pissa"],
    "loftq": ["method=lora", "method.init=loftq"],
    "qlora": ["method=qlora"],
    "qlora8": ["method=qlora", "method.bits=8"],
}
NONE = {
    "prefix": ["method=prefix", "method.length=3"],
    "prompt": ["method=prompt", "method.length=3"],
    "bitfit": ["method=bitfit", "method.add_biases=true"],
    "adapter": ["method=adapter", "method.size=4"],
    "head_only": ["method=head_only"],
    "ia3": ["method=peft", "method.peft_type=IA3"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> Callable[[str], Path]:
    """Return the folder of a run of this method; each is trained at most once."""
    runs, done = tmp_path_factory.mktemp("runs"), {}

    def one(name: str) -> Path:
        if name not in done:
            overrides = [f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
            method = {**METHODS, **NONE}[name]
            steps = ["train.max_steps=2", "rank=4", "train.learning_rate=0.01", "train.save_steps=0"]
            done[name], _ = small_runs.run(runs / name, *overrides, *method, *steps)
        return done[name]

    return one


def matrices(folder: Path, **settings: Any) -> list[Matrix]:
    (job,) = jobs(Settings(runs=(str(folder),), **settings))
    return [matrix for _, pair in job.steps for matrix in pair]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_read_as_the_model_it_trained(trained, method):
    """W0 + ΔW of every matrix is the merged weight of the model that the run's own method brings back."""
    model, _, _ = load_run(trained(method))
    merged = config_of(read_record(trained(method))).method.merge(model)
    wanted = {
        n: m.weight.T if isinstance(m, Conv1D) else m.weight
        for n, m in merged.named_modules()
        if isinstance(m, nn.Linear)
    }
    found = matrices(trained(method))
    assert {matrix.reference for matrix in found} == (
        {"w0", "dequantised"} if method in ("qlora", "qlora8", "loftq") else {"w0"}
    )
    for matrix in found:
        expected = wanted[matrix.name.removesuffix(".weight")].detach().float()
        torch.testing.assert_close(matrix.base + matrix.change.dense(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "pissa", "full"])
def test_a_sequence_of_tasks_is_read_as_the_model_it_ends_with(tmp_path, llama_folder, data_folder, method):
    """Its last adapter belongs to the weights that the tasks before left, and the change is against the untouched."""
    quick = ["forgetting=none", "train.max_steps=2", "train.learning_rate=0.01", "train.save_steps=0", "rank=2"]
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    config = small_runs.configure(tmp_path, *model, *METHODS[method], *quick)
    folder, _ = probing.run(probing.sequence_of(config, data_folder, "classification", "multiple_choice"))
    tuned, _, _ = load_run(folder)
    merged = dict(config_of(read_record(folder)).method.merge(tuned).named_parameters())
    found = matrices(folder)
    assert len(found) == 14
    for matrix in found:
        expected = merged[matrix.name].detach()
        torch.testing.assert_close(matrix.base + matrix.change.dense(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", NONE)
def test_a_method_without_a_weight_change_is_not_applicable(trained, method, capsys):
    assert work(Settings(runs=(str(trained(method)),)))
    line = capsys.readouterr().out.strip()
    assert "n/a: " in line and "\n" not in line
    assert not (trained(method) / "analysis").exists()


def test_a_run_that_failed_is_said_and_is_a_fault(tmp_path, capsys):
    record = {
        "schema_version": 1,
        "id": "lora-x",
        "status": "failed",
        "reason": "out of memory",
        "config": {"method": {"name": "lora"}},
    }
    write_json(tmp_path / "lora-x" / "record.json", record)
    assert not work(Settings(runs=(str(tmp_path),)))
    assert capsys.readouterr().out == "lora-x: failed: out of memory\n"


def test_runs_of_a_search_have_no_weights_to_measure(tmp_path, capsys):
    facts = {"schema_version": 1, "status": "done", "config": {"method": {"name": "lora"}}}
    for name in ("lora-a", "lora-b"):
        write_json(tmp_path / name / "record.json", facts | {"id": name, "purpose": "search"})
    with pytest.raises(ConfigError, match=r"holds runs of a learning-rate search alone: .* keeps no weights"):
        list(jobs(Settings(runs=(str(tmp_path),))))
    assert work(Settings(runs=(str(tmp_path / "lora-a"),)))
    assert capsys.readouterr().out == f"lora-a: n/a: {NO_WEIGHTS}\n"
    write_json(tmp_path / "lora-c" / "record.json", facts | {"id": "lora-c", "status": "failed", "reason": "no memory"})
    assert not work(Settings(runs=(str(tmp_path),)))
    assert capsys.readouterr().out == "lora-c: failed: no memory\n"


def test_a_kept_record_without_weights_is_passed_over_where_it_was_counted(trained, tmp_path, capsys):
    """Records of studies are kept without weights: whoever trains more beside them counts what is new."""
    for name in ("counted", "never"):
        (tmp_path / name).mkdir()
        shutil.copy(trained("lora") / "record.json", tmp_path / name)
    write_json(tmp_path / "counted" / "analysis" / "intruders.json", {})
    id_ = read_record(trained("lora"))["id"]
    assert work(Settings(runs=(str(tmp_path / "counted"),)))
    assert capsys.readouterr().out == f"{id_}: n/a: its weights were not kept; its tables stay as they are\n"
    assert not work(Settings(runs=(str(tmp_path),)))
    assert capsys.readouterr().out.splitlines()[1] == f"{id_}: its weights were not kept, and it was never counted"


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{table}.parquet").to_pylist()


def chosen(rows: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


CLOSE = 1e-3
"""Cosines of float32 weights trained here, against numpy's in double: within this of ε either answer is right."""


@pytest.mark.parametrize("algorithm", ["svd", "eigen"])
def test_tables_stand_beside_the_record(trained, algorithm, capsys):
    folder = trained("lora")
    assert work(Settings(runs=(str(folder),), k=5, eps=0.9, algorithm=algorithm))
    out = folder / "analysis"
    for table in ("vectors", "matrices", "counts"):
        stored = pq.read_schema(out / f"{table}.parquet")
        assert {
            name: str(kind).replace("bool", "bool_").replace("double", "float64")
            for name, kind in zip(stored.names, stored.types, strict=True)
        } == SCHEMAS[table]
    found = matrices(folder)
    exact = [cosines(m.base.double().numpy(), (m.base + m.change.dense()).double().numpy(), 5) for m in found]
    left, right = (np.concatenate([side[i] for side in exact]) for i in (0, 1))
    vectors = chosen(read(out, "vectors"), control="none")
    for side, cos in (("u", left), ("v", right)):
        flags = np.array([row[f"intruder_{side}"] for row in vectors])
        assert not ((flags != (cos < 0.9)) & (abs(cos - 0.9) > CLOSE)).any()
    intruders = {side: sum(row[f"intruder_{side}"] for row in vectors) for side in "uv"}
    counts = read(out, "counts")
    (total,) = chosen(counts, by="all", k=5, eps=0.9, side="u", clustered=False, control="none")
    assert (
        total["intruders"] == intruders["u"] and total["vectors"] == 5 * len(found) and total["matrices"] == len(found)
    )
    by_kind = chosen(counts, by="kind", k=5, eps=0.9, side="u", clustered=False, control="none")
    by_layer = chosen(counts, by="layer", k=5, eps=0.9, side="u", clustered=False, control="none")
    assert sum(row["intruders"] for row in by_kind) == sum(row["intruders"] for row in by_layer) == total["intruders"]
    assert {row["value"] for row in by_layer} == {"0", "1"}
    printed = capsys.readouterr().out
    assert f"{total['intruders']:g} intruder dimensions of {total['vectors']}" in printed
    assert " beyond random changes of its spectrum, " in printed
    tuned, *random = json.loads((out / "intruders.json").read_text())
    assert [entry["control"] for entry in (tuned, *random)] == ["none", "spectrum", "low_rank", "dense"]
    for entry in random:
        draws = entry["draws"]["intruders_u"]
        assert len(draws) == 20 and entry["intruders_u"] == np.median(draws)
        assert [entry["intruders_u_low"], entry["intruders_u_high"]] == np.quantile(draws, [0.05, 0.95]).tolist()
        (row,) = chosen(counts, by="all", k=5, eps=0.9, side="u", clustered=False, control=entry["control"])
        assert (row["intruders"], row["draws"]) == (entry["intruders_u"], 20)
    main = np.array(random[0]["draws"]["intruders_u"])
    assert tuned["intruders_u_excess"] == tuned["intruders_u"] - np.median(main)
    assert tuned["intruders_u_p"] == (1 + (main >= tuned["intruders_u"]).sum()) / 21
    assert {side: tuned[f"intruders_{side}"] for side in "uv"} == intruders
    assert tuned["relative_change"] == pytest.approx(
        np.mean([float(m.change.dense().norm() / m.base.norm()) for m in found]), rel=1e-4
    )
    assert (tuned["run"], tuned["step"], tuned["k"], tuned["eps"]) == (folder.name, None, 5, 0.9)


def test_tables_of_some_modules_do_not_replace_those_of_all(trained):
    folder = trained("rslora")
    work(Settings(runs=(str(folder),), k=2, controls=False))
    whole = (folder / "analysis" / "counts.parquet").read_bytes()
    work(Settings(runs=(str(folder),), k=2, controls=False, modules=("q_proj",)))
    assert (folder / "analysis" / "counts.parquet").read_bytes() == whole
    assert {row["kind"] for row in read(folder / "analysis" / "q_proj", "vectors")} == {"q_proj"}


@pytest.mark.slow
def test_counts_over_the_grid_are_those_of_double_precision(trained, tmp_path):
    """At every ε of the grid that no cosine is within its bound of."""
    folder = trained("full")
    for name in ("svd", "eigen"):
        work(Settings(runs=(str(folder),), k=3, out=str(tmp_path / name), algorithm=name, controls=False))
    exact, found = ({_place(row): row["intruders"] for row in read(tmp_path / n, "counts")} for n in ("svd", "eigen"))
    vectors = read(tmp_path / "eigen", "vectors")
    close = [
        eps
        for eps in {place[-1] for place in exact}
        if any(abs(row[f"cos_{side}"] - eps) <= row[f"bound_{side}"] for row in vectors for side in "uv")
    ]
    kept = {place for place in exact if place[-1] not in close and not place[3]}
    assert len(kept) > len(exact) / 4
    assert {place: found[place] for place in kept} == {place: exact[place] for place in kept}


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("by", "value", "side", "clustered", "k", "eps"))


def test_energy_shares_are_parts_of_the_whole(trained):
    rows = chosen(read_or_run(trained("lora")), control="none")
    for name in {row["matrix"] for row in rows}:
        shares = [row["energy_u"] for row in rows if row["matrix"] == name]
        assert 0 <= sum(shares) <= 1 + 1e-6
    (matrix, *_) = matrices(trained("lora"))
    y = np.linalg.svd((matrix.base + matrix.change.dense()).numpy())[0][:, 0]
    delta = matrix.change.dense().numpy()
    first = next(row for row in rows if row["matrix"] == matrix.name)
    assert first["energy_u"] == pytest.approx(np.linalg.norm(y @ delta) ** 2 / np.linalg.norm(delta) ** 2, abs=1e-4)


def read_or_run(folder: Path) -> list[dict[str, Any]]:
    work(Settings(runs=(str(folder),), k=5))
    return read(folder / "analysis", "vectors")


@pytest.mark.slow
def test_a_quantised_base_has_a_floor_and_two_references(trained, tmp_path, capsys):
    work(Settings(runs=(str(trained("qlora")),), k=3, out=str(tmp_path)))
    assert {(row["reference"], row["control"]) for row in read(tmp_path, "counts")} == {
        ("w0", "none"), ("w0", "spectrum"), ("w0", "dense"), ("w0", "quantisation"),
        ("dequantised", "none"), ("dequantised", "spectrum"), ("dequantised", "dense"), ("dequantised", "low_rank"),
    }  # fmt: skip
    assert "quantising alone" in capsys.readouterr().out


@pytest.mark.slow
def test_random_changes_are_drawn_anew_for_each_run(trained, tmp_path, monkeypatch):
    """The same weights under two ids have other draws, under one id the same; so have two matrices of a run."""
    streams: list[str] = []

    def noted(null: Any, stream: str, *rest: Any) -> Any:
        streams.append(stream)
        return drawn(null, stream, *rest)

    monkeypatch.setattr(analyse, "drawn", noted)
    for place, name in (("a", "lora-x"), ("b", "lora-y"), ("c", "lora-x")):
        copy = tmp_path / place / name
        shutil.copytree(trained("lora"), copy)
        record = json.loads((copy / "record.json").read_text()) | {"id": name}
        (copy / "record.json").write_text(json.dumps(record))
        work(Settings(runs=(str(copy),), k=2, draws=2))
    assert len(streams) == 3 * 14 and len(set(streams)) == 2 * 14
    assert streams[:14] == streams[28:]
    (entry,) = [one for one in json.loads((copy / "analysis" / "intruders.json").read_text()) if "draws" in one][:1]
    assert len(entry["draws"]["intruders_u"]) == 2


@pytest.mark.slow
def test_processes_share_the_work_and_change_nothing(tmp_path):
    """Rows, their order, texts and whole numbers; other processes round otherwise, within the bound of the spectra."""
    torch.manual_seed(0)  # the adapter is drawn: spectra of other draws may have values too close to hold anything
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    asked = [f"base={base}", f"tuned={tmp_path / 'adapter'}", "k=4", "spectra=true", "similarity=5"]
    assert work(COMMAND.parse([*asked, "jobs=1", f"out={tmp_path / '1'}"]))
    command = [sys.executable, "-W", "error", "-m", "analysis.intruders", *asked, "jobs=2", f"out={tmp_path / '2'}"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | OTHERWISE)
    cosine = vectors_bound(max(gap(sigmas) for sigmas in spectra_of(tmp_path / "1")))
    assert cosine < 0.1, cosine  # else nothing would be held
    for table in ("matrices", "spectra", "similarity", "angles"):
        assert_same_but_for_rounding(read(tmp_path / "1", table), read(tmp_path / "2", table), cosine)
    one, two = (without_flags(read(tmp_path / jobs_, "vectors"), 0.5, cosine) for jobs_ in "12")
    assert_same_but_for_rounding(one, two, cosine)
    for jobs_ in "12":  # counts are of the vectors' own stored cosines, and exact
        vectors, counts = read(tmp_path / jobs_, "vectors"), read(tmp_path / jobs_, "counts")
        for row in chosen(counts, by="all", control="none", clustered=False):
            cos = [one[f"cos_{row['side']}"] for one in vectors if one["index"] < row["k"]]
            assert row["intruders"] == sum(value < row["eps"] for value in cos)


def spectra_of(out: Path) -> list[list[float]]:
    """Return the singular values of each base and tuned matrix."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read(out, "spectra"):
        if row["of"] != "change":
            found.setdefault((row["matrix"], row["of"]), []).append(row["sigma"])
    return list(found.values())


def test_spectra_and_similarity_are_written_when_asked_for(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter", target_modules=["q_proj"])
    work(
        Settings(
            base=str(base), tuned=str(tmp_path / "adapter"), out=str(tmp_path / "out"), k=2, spectra=True, similarity=3
        )
    )
    rows = chosen(read(tmp_path / "out", "spectra"), layer=0)
    (matrix, _) = list(next(iter(jobs(Settings(base=str(base), tuned=str(tmp_path / "adapter"), out="x")))).steps[0][1])
    for of, values in (("base", matrix.base), ("tuned", matrix.base + matrix.change.dense())):
        assert [row["sigma"] for row in chosen(rows, of=of)] == pytest.approx(
            np.linalg.svd(values.numpy())[1].tolist(), rel=1e-4
        )
    assert len(chosen(rows, of="change")) == 3
    similar = chosen(read(tmp_path / "out", "similarity"), layer=0)
    x, y = (np.linalg.svd(m.numpy())[0] for m in (matrix.base, matrix.base + matrix.change.dense()))
    assert [row["cos"] for row in similar] == pytest.approx(np.abs(x[:, :3].T @ y[:, :3]).ravel().tolist(), abs=1e-4)
    angles = chosen(read(tmp_path / "out", "angles"), layer=0, side="u")
    expected = np.rad2deg(scipy.linalg.subspace_angles(x[:, :3], y[:, :3]))[::-1]
    assert [row["degrees"] for row in angles] == pytest.approx(expected.tolist(), abs=0.1)


def test_the_whole_similarity_matrix_on_request(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter", target_modules=["k_proj"])
    arguments = [f"base={base}", f"tuned={tmp_path / 'adapter'}", f"out={tmp_path / 'out'}", "similarity=whole"]
    work(COMMAND.parse([*arguments, "controls=false"]))
    rows = chosen(read(tmp_path / "out", "similarity"), layer=0)
    assert len(rows) == 16 * 16
    squares = np.array([row["cos"] for row in rows]).reshape(16, 16) ** 2
    np.testing.assert_allclose(squares.sum(axis=0), 1, atol=1e-4)  # k_proj is wide: 16 left vectors span all


@pytest.mark.slow
def test_kept_checkpoints_are_measured_too(tmp_path, llama_folder, data_folder, capsys):
    overrides = [f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "method=lora", "rank=2"]
    steps = ["train.max_steps=4", "train.save_steps=2", "train.keep_checkpoints=true"]
    folder, _ = small_runs.run(tmp_path, *overrides, *steps)
    work(Settings(runs=(str(folder),), k=2, eps=0.9, checkpoints=True, controls=False))
    rows = read(folder / "analysis", "matrices")
    norms = {step: next(row["change_norm"] for row in rows if row["step"] == step) for step in (2, 4, None)}
    assert norms[2] < norms[4] == pytest.approx(norms[None], rel=ROUNDING)  # one tensor in two files
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = chosen(read(folder / "analysis", "counts"), by="all", k=2, eps=0.9, side="u", clustered=False)
    assert {row["step"]: row["intruders"] for row in counts} == {
        {"2": 2, "4": 4, "end": None}[cells[0]]: float(cells[2]) for cells in printed if len(cells) == 7 and cells[0]
        in ("2", "4", "end")
    }  # fmt: skip
    steps = [entry["step"] for entry in json.loads((folder / "analysis" / "intruders.json").read_text())]
    assert steps == [2, 4, None]


# Bad input: one line, exit 1, before torch is imported where the line alone shows it.
