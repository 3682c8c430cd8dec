"""What is read off a model, against closed forms, direct computation and loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from scipy.special import rel_entr
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from harness import runtime
from harness.config import RunConfig
from harness.execution import session
from harness.execution.loading import load
from harness.forgetting.heads import OutputHead, untouched_head
from harness.forgetting.probes.lm_loss import LanguageModelLoss
from harness.forgetting.reading import batches, compare, read
from harness.forgetting.subject import Subject, undisturbed
from harness.forgetting.texts import Document, Material, Row, masked_rows, next_token_rows

pytestmark = pytest.mark.usefixtures("quick")
TEXTS = ["the film here was lovely and so was the talk by the sea", "a dull book", "it was warm " * 9]


@pytest.fixture
def llama(llama_folder: Path, data_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.fixture
def bert(data_folder: Path) -> list[str]:
    return ["model=bert_tiny", *small_runs.task("classification", data_folder), "rank=4"]


def subject_of(config: RunConfig, trained: bool) -> Subject:
    """Return a subject: the untouched model, or one whose trained tensors were moved at random."""
    prepared = session.prepare(config)
    backbone = load(config, prepared, runtime.resolve(config))
    model: nn.Module = config.method.attach(backbone) if trained else backbone.model
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if trained and parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return Subject(model.eval(), config, prepared)


def rows_of(subject: Subject, masked: bool, length: int = 12) -> list[Row]:
    cut = masked_rows if masked else next_token_rows
    tokenizer = subject.prepared.objective.tokenizer
    return [row for owner, text in enumerate(TEXTS) for row in cut(text, owner, tokenizer, length)]


def reading(subject: Subject, rows: list[Row], masked: bool = False, **options: Any) -> Any:
    with undisturbed(subject.model, runtime.resolve(subject.config)):
        head = untouched_head(subject.config, subject.prepared)
        return read(subject, Material([], rows, masked), head, **options)


def test_uniform_model_has_the_loss_of_its_vocabulary(llama: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *llama), trained=False)
    subject.model.lm_head.weight = nn.Parameter(torch.zeros_like(subject.model.lm_head.weight))
    found = reading(subject, rows_of(subject, masked=False))
    assert found.losses.tolist() == pytest.approx([math.log(small_runs.VOCABULARY)] * len(found.losses))


def test_known_probabilities_give_known_losses_and_bits(llama: list[str]) -> None:
    """A model whose layers do nothing predicts from the last token alone: its losses can be looked up in a table."""
    subject = subject_of(small_runs.configure("runs", *llama), trained=False)
    for name, parameter in subject.model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()
    body = subject.model.model
    table = (body.norm(body.embed_tokens.weight) @ subject.model.lm_head.weight.T).log_softmax(-1).detach()
    rows = rows_of(subject, masked=False)
    wanted = [
        -float(table[row.ids[row.first + offset], token]) for row in rows for offset, token in enumerate(row.targets)
    ]
    assert reading(subject, rows).losses.tolist() == pytest.approx(wanted, abs=1e-5)

    documents = [Document(str(number), text, "mine") for number, text in enumerate(TEXTS)]
    probe, material = LanguageModelLoss(), Material(documents, rows, masked=False)
    subject.readings = {"text": reading(subject, rows)}
    items = probe.measure(subject, material, None).items
    change = probe.compare(items, items)
    size = sum(len(text.encode()) for text in TEXTS)
    assert change["loss"].after.value == pytest.approx(sum(wanted) / len(wanted))
    assert change["bits_per_byte"].after.value == pytest.approx(sum(wanted) / math.log(2) / size)
    assert (change["perplexity_ratio"].after.value, change["loss"].delta.value) == (1.0, 0.0)  # type: ignore[union-attr]


def test_loss_is_that_of_transformers(llama: list[str]) -> None:
    """On a text of one window, with the loss that the model computes itself."""
    config = small_runs.configure("runs", *llama)
    subject = subject_of(config, trained=False)
    tokenizer = subject.prepared.objective.tokenizer
    (row,) = next_token_rows(TEXTS[0], 0, tokenizer, 200)
    model = AutoModelForCausalLM.from_pretrained(config.model.path)
    ids = torch.tensor([[tokenizer.eos_token_id, *row.targets]])
    with torch.no_grad():
        wanted = float(model(input_ids=ids, labels=ids).loss)
    assert float(reading(subject, [row]).losses.mean()) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "full", "prompt", "prefix", "adapter", "qlora"])
def test_divergence_is_that_of_a_direct_computation(method: str, llama: list[str]) -> None:
    config = small_runs.configure("runs", *llama, f"method={method}")
    untouched, tuned = subject_of(small_runs.configure("runs", *llama), trained=False), subject_of(config, trained=True)
    rows = rows_of(tuned, masked=False)
    states = reading(untouched, rows, keep_states=True).states
    found = reading(tuned, rows, base=states)
    expected_kl, expected_same = [], []
    for row in rows:  # one by one, without padding, and all logits at once
        ids = torch.tensor([row.ids])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            p, q = (
                s.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, -len(row.ids) :].double()
                for s in (untouched, tuned)
            )
        p, q = p[row.first :].softmax(-1), q[row.first :].softmax(-1)
        expected_kl += rel_entr(p.numpy(), q.numpy()).sum(-1).tolist()
        expected_same += (p.argmax(-1) == q.argmax(-1)).double().tolist()
    assert found.divergence.tolist() == pytest.approx(expected_kl, abs=2e-5)
    assert found.agreement.tolist() == expected_same
    assert max(expected_kl) > 1e-3


def test_base_does_not_diverge_from_itself(llama: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *llama), trained=False)
    rows = rows_of(subject, masked=False)
    found = reading(subject, rows, base=reading(subject, rows, keep_states=True).states)
    assert float(found.divergence.max()) < 1e-5
    assert float(found.agreement.min()) == 1.0


@pytest.mark.parametrize("method", ["untouched", "full", "bitfit", "lora"])
def test_pseudo_loss_is_that_of_a_loop_over_single_masks(method: str, bert: list[str]) -> None:
    config = small_runs.configure("runs", *bert, *([] if method == "untouched" else [f"method={method}"]))
    subject = subject_of(config, trained=method != "untouched")
    rows = rows_of(subject, masked=True)
    found = reading(subject, rows, masked=True).losses
    if method == "lora":
        subject.model = config.method.merge(subject.model)
    whole = AutoModelForMaskedLM.from_pretrained(subject.prepared.files.folder)
    state = {n: t for n, t in subject.model.bert.state_dict().items() if not n.startswith("pooler")}  # type: ignore[union-attr]
    whole.bert.load_state_dict(state)
    wanted = []
    for row in rows:
        with torch.no_grad():
            logits = whole(input_ids=torch.tensor([row.ids])).logits[0, row.first]
        wanted.append(-float(logits.log_softmax(-1)[row.targets[0]]))
    assert found.tolist() == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_virtual_tokens_of_an_encoder_are_in_place(method: str, bert: list[str]) -> None:
    """The masked token is read off behind the virtual tokens: the model as trained, its hidden state by hand."""
    subject = subject_of(small_runs.configure("runs", *bert, f"method={method}", "method.length=3"), trained=True)
    rows = rows_of(subject, masked=True)[:6]
    found = reading(subject, rows, masked=True).losses
    whole = AutoModelForMaskedLM.from_pretrained(subject.prepared.files.folder)
    wanted = []
    for row in rows:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            states = subject.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            ).hidden_states[-1]
            logits = whole.cls(states[:, -len(row.ids) :])[0, row.first]
        wanted.append(-float(logits.log_softmax(-1)[row.targets[0]]))
    assert found.tolist() == pytest.approx(wanted, abs=2e-4)


def test_output_head_gives_the_models_own_logits(gpt2_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True)
        head = OutputHead(model)
        assert torch.equal(head(output.hidden_states[-1]), output.logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma3"])
def test_the_output_layer_is_loaded_without_the_body(
    family: str, llama_folder: Path, gpt2_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """Families that tie the matrix or do not, name layers otherwise, or list a kind for each layer."""
    folder = {"llama": llama_folder, "gpt2": gpt2_folder}.get(family) or other_family(family, llama_folder, tmp_path)
    config = small_runs.configure(
        "runs", "model=custom", f"model.path={folder}", *small_runs.task("classification", data_folder)
    )
    prepared = session.prepare(config)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True)
        head = untouched_head(config, prepared)
        assert torch.equal(head(output.hidden_states[-1]), output.logits)
    assert sum(p.numel() for p in head.model.parameters()) == model.get_output_embeddings().weight.numel()
    assert head.tied == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)


def other_family(family: str, tokenizer: Path, folder: Path) -> Path:
    """Write a tiny checkpoint of another family with a Llama's tokenizer."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    config = AutoConfig.for_model(
        {"gemma3": "gemma3_text"}.get(family, family),
        vocab_size=small_runs.VOCABULARY,
        num_attention_heads=2,
        num_key_value_heads=2,
        **sizes,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def test_scaled_logits_are_in(gpt2_folder: Path) -> None:
    """Granite divides its logits, after the output matrix; the head runs the model's own code, so it does so too."""
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 40}
    model = GraniteForCausalLM(GraniteConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0))
    with torch.no_grad():
        output = model.eval()(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True)
        assert torch.equal(OutputHead(model)(output.hidden_states[-1]), output.logits)


def test_batches_hold_every_row_once() -> None:
    rows = [Row(0, list(range(length)), 0, [0]) for length in (3, 9, 1, 9, 5, 30)]
    found = list(batches(rows, 18))
    assert sorted(index for part in found for index in part) == list(range(len(rows)))
    assert all(len(part) * max(len(rows[i].ids) for i in part) <= 18 or len(part) == 1 for part in found)


def test_divergence_is_computed_in_full_precision_under_autocast() -> None:
    """torch's einsum is a product of matrices, which autocast rounds: the small divergence of a tuned model drowns."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 5000, generator=generator)
    tuned = base + 0.05 * torch.randn(8, 5000, generator=generator) + 2
    exact = torch.nn.functional.kl_div(
        tuned.double().log_softmax(-1), base.double().log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = compare(base, tuned, tuned.logsumexp(-1))
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-5)
