"""Other tuners written as LoRA, and a method of two adapters, opened by plain PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_runs import Room, Trained, ask, base_model, close_enough, logits, open_adapter
from peft import PeftModel

from harness import export
from harness.errors import ConfigError
from harness.lora_conversion import account, rank_of
from harness.methods.peft import quiet_peft

pytestmark = pytest.mark.usefixtures("quick")


def test_a_tuner_as_lora_of_enough_rank_has_its_logits(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoKr's Kronecker product has full rank: at the full rank nothing is lost, at rank 1 something is, and is said."""
    run = trained("decoder", "lokr")
    width = json.loads((Path(run.config.model.path) / "config.json").read_text())["hidden_size"]
    whole = export.export(ask(run, tmp_path / "whole", as_lora=width // 2))  # of keys and values the smaller side
    whole_said = capsys.readouterr().out
    settings = json.loads((whole / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and settings["task_type"] == "CAUSAL_LM"
    assert settings["base_model_name_or_path"] == run.config.model.path
    one = export.export(ask(run, tmp_path / "one", as_lora=1))
    one_said = capsys.readouterr().out
    moved = [float((logits(open_adapter(run, folder)) - run.logits).abs().max()) for folder in (whole, one)]
    assert moved[0] < moved[1]
    for said, folder in ((whole_said, whole), (one_said, one)):
        line = said.splitlines()[0].partition(": ")[2]
        assert line.startswith("max |difference of logits| is ") and "of 32 positions" in line
        assert line in (folder / "README.md").read_text()


def test_the_account_says_what_differs() -> None:
    wanted = torch.tensor([[[1.0, 4.0], [2.0, -1.0]]])
    found = torch.tensor([[[1.0, 4.5], [-2.0, -1.0]]])
    said = "max |difference of logits| is 4.0e+00, 1.0e+00 of max |logit|"
    assert account(found, wanted) == f"{said}; the largest logit is the same at 1 of 2 positions"


@pytest.mark.parametrize(("value", "rank"), [("8", 8), ("0.99", 0.99)])
def test_a_rank_or_a_share_is_read(value: str, rank: float) -> None:
    assert rank_of(value) == rank and type(rank_of(value)) is type(rank)


@pytest.mark.parametrize("value", ["0", "1.5", "-1", "nan", "much"])
def test_other_ranks_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=f"as_lora={value}: must be a rank"):
        rank_of(value)
    with pytest.raises(ConfigError, match="leave merge=true out"):
        export.parse(["run=a", "to=b", "merge=true", "as_lora=8"])


@pytest.mark.parametrize(("name", "reason"), [("lora", "is LoRA already"), ("prefix", "is no change of weights")])
def test_what_is_or_cannot_be_lora_says_so(name: str, reason: str, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"as_lora=: .*{reason}"):
        export.export(ask(trained("encoder", name), tmp_path / "to", as_lora=4))
    assert not list(tmp_path.iterdir())


def executed(card: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the first block of code of a card in its folder, and return its model."""
    monkeypatch.chdir(card.parent)
    names: dict[str, Any] = {}
    torch.manual_seed(99)
    with quiet_peft():
        exec(card.read_text().split("```python\n")[1].partition("```")[0], names)
    return names["model"]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("merge", [False, True])
def test_lora_with_a_prefix_opens_as_its_card_says(
    kind: str, merge: bool, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(kind, "lora_prefix")
    to = export.export(ask(run, tmp_path / "to", merge=merge))
    assert not (to / "adapter_config.json").exists()
    assert close_enough(run, logits(executed(to / "README.md", monkeypatch)))


def test_the_merged_half_alone_is_another_model(trained: Any, tmp_path: Path) -> None:
    run: Trained = trained("decoder", "lora_prefix")
    to = export.export(ask(run, tmp_path / "to", merge=True))
    assert not close_enough(run, logits(base_model(run, to)), 1e-3)


def test_requests_of_a_mixed_batch_each_have_their_own_adapter(trained: Any, room: Room, tmp_path: Path) -> None:
    """PEFT's ``adapter_names``: rows of one batch by two runs' adapters, and by none, as each alone answers."""
    runs = [trained("decoder", "lora"), trained("decoder", "rslora")]
    folders = [export.export(ask(run, tmp_path / str(number))) for number, run in enumerate(runs)]
    tokens = torch.arange(5, 35).reshape(3, 10)
    base = base_model(runs[0], str(room.llama))
    with torch.no_grad():
        untouched = base(input_ids=tokens).logits.clone()
    with quiet_peft():
        model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name="first").eval()
        model.load_adapter(str(folders[1]), adapter_name="second")
    with torch.no_grad():
        mixed = model(input_ids=tokens, adapter_names=["first", "second", "__base__"]).logits
        alone = []
        for row, name in enumerate(("first", "second")):
            model.set_adapter(name)
            alone.append(model(input_ids=tokens[row : row + 1]).logits[0])
    for row, wanted in enumerate((*alone, untouched[2])):
        torch.testing.assert_close(mixed[row], wanted, rtol=1e-4, atol=1e-5)
    assert float((mixed[0] - untouched[0]).abs().max()) > 1e-3
