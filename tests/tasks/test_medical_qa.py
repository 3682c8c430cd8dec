"""Medical question answering: `experiment=medical_qa` on a small local file with the hub's columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_runs

from analysis import records
from analysis.records import read_runs
from analysis.views.report.page import page
from harness.compose import compose
from harness.execution import session
from harness.storage.record import Status
from harness.tasks.instruction import Instruction

pytestmark = pytest.mark.usefixtures("quick")
COMPLAINTS = ("a sore throat", "a headache", "back pain", "a fever", "a rash")
ADVICE = ("Rest and drink water.", "Take it easy.", "Please see a doctor.", "Sleep more.", "Use a cold pack.")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Write 200 questions with the columns of the hub's data set; one has no answer, as some there."""
    rows = [
        {
            "Description": f"Q. What helps against {COMPLAINTS[number % 5]}?",
            "Patient": f"Hello doctor, I have had {COMPLAINTS[number % 5]} for {number} days. What should I do?",
            "Doctor": f"Hi. {ADVICE[number % 5]}" if number else None,
        }
        for number in range(200)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def overrides(chats: Path, llama_folder: Path) -> list[str]:
    model = ["model=custom", f"model.path={llama_folder}", "task=medical_qa", f"task.data.all.path={chats}"]
    return [*model, "task.test_share=0.1", "task.validation_share=0.1", "task.max_new_tokens=12", "task.max_length=128"]


def test_the_experiment_is_the_documents_one() -> None:
    config = compose("experiment=medical_qa", "method=lora")
    assert config.train.max_steps == 60 and isinstance(config.task, Instruction)
    assert (config.task.dataset, config.task.data.all.id) == ("medical_qa", "ruslanmv/ai-medical-chatbot")


def test_prompts_are_patient_and_doctor_or_what_a_template_says(chats: Path, llama_folder: Path) -> None:
    config = small_runs.configure("runs", *overrides(chats, llama_folder))
    prepared = session.prepare(config)
    assert prepared.splits.dropped == {"without a target": 1}
    item = prepared.splits.test[0]
    assert prepared.objective.show(item) == f"Patient: {item.fields['text']}\nDoctor:"
    assert str(item.target).startswith("Hi. ")
    alpaca = "### Instruction:\n{description}\n\n### Input:\n{text}\n\n### Response:\n"
    config.task.template = alpaca
    session._PREPARED.clear()
    shown = session.prepare(config).objective.show(item)
    assert shown.startswith(f"### Instruction:\n{item.fields['description']}") and shown.endswith("### Response:\n")


@pytest.mark.slow
def test_base_tuned_and_reference_stand_side_by_side(chats: Path, llama_folder: Path, tmp_path: Path) -> None:
    """After 60 steps the answers have changed towards the doctor's, in the samples, the record and the page."""
    rate = ["method=full", "train.learning_rate=3e-3", "train.max_steps=60", "train.per_device_train_batch_size=16"]
    folder, record = small_runs.run(tmp_path / "runs", *overrides(chats, llama_folder), *rate)
    assert record["status"] == Status.done, record["traceback"]
    assert record["steps"] == 60
    before, after = (record["scores"][phase]["test"]["rouge_l"]["value"] for phase in ("before", "after"))
    assert after > before + 0.2
    samples = records.samples(folder)
    assert len(samples) == 8
    for sample in samples:
        assert sample["input"].startswith("Patient: Hello doctor") and sample["input"].endswith("\nDoctor:")
        assert sample["reference"].startswith("Hi. ") and sample["base"] != sample["tuned"]
    text = page(read_runs(tmp_path / "runs"), "Medical questions")
    data = json.loads(text.split('type="application/json"')[1].split(">", 1)[1].split("</script>")[0])
    shown = data["samples"][0]
    assert [one["tuned"] for one in shown] == [sample["tuned"] for sample in samples]
    assert [one["reference"] for one in shown] == [sample["reference"] for sample in samples]
