"""Exporting a finished run: ``python -m harness.export run=<id> to=<folder>``: a PEFT adapter, a LoRA, a merged model.

What is written is opened again the way its user will, and its logits are compared with the run's,
before it takes its place on disk.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness import lora_conversion
from harness.errors import AssetError, ConfigError, HarnessError, NotApplicable, RecordError, first_line, nearest
from harness.lora_conversion import rank_of
from harness.model_card import MARK, adapter_card, base_of, merged_card
from harness.storage.files import disk_full, new_folder, write_bytes
from harness.storage.privacy import expanded
from harness.storage.record import NO_WEIGHTS, of_search

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.models import Backbone

USAGE = """\
Write a finished run as a PEFT adapter folder, as a LoRA adapter, or merged as a plain Hugging Face model.

  python -m harness.export run=<id> to=<folder>                  the adapter
  python -m harness.export run=<id> to=<folder> merge=true       the whole model
  python -m harness.export run=<id> to=<folder> as_lora=16       another tuner as a LoRA adapter, for vLLM and others

  run         a run's id, the beginning of one, or a run's folder
  to          the folder to write; it must not exist, or be empty
  merge       true: fold what was trained into the base's weights and write the whole model (default: false)
  as_lora     a rank, or a share of ΔW's squared singular values such as 0.99: convert an adapter that is no LoRA into
              one; how much its logits differ is said and stands in its card (default: written as it is)
  output_dir  where runs are (default: runs)
  overwrite   true: replace a folder that an earlier export wrote (default: false)
"""
TOLERANCE = 1e-3
"""Of the largest logit: how far an export in float32 may differ. Merging reorders sums and is off by 1e-6."""
ROUNDINGS = 8
"""Units in the last place of a shorter type: its roundings add up from layer to layer."""
CHECKED_TOKENS = (2, 16)
"""Rows and tokens of the input on which logits are compared."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    run: str
    to: str
    merge: bool = False
    output_dir: str = "runs"
    overwrite: bool = False
    as_lora: int | float | None = None


@dataclass(frozen=True)
class Loaded:
    """A run's tuned model with all that exporting needs of the run."""

    record: dict[str, Any]
    config: RunConfig
    prepared: Prepared
    model: nn.Module
    backbone: Backbone
    logits: torch.Tensor = field(repr=False)
    """The tuned model's on the checked tokens; merging changes the model itself."""


def parse(arguments: list[str]) -> Request:
    """Return the request of ``key=value`` arguments; raise :class:`ConfigError` naming the one that is wrong."""
    known = [option.name for option in fields(Request)]
    given: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known:
            raise ConfigError(key, value, f"no such option; {nearest(key, known)}")
        if not equals or not value:
            raise ConfigError(key, value, "needs a value")
        if key in given:
            raise ConfigError(key, value, f"given twice, first as {given[key]}")
        given[key] = READ.get(key, _text)(key, value)
    for key in ("run", "to"):
        if key not in given:
            raise ConfigError(key, "", "must be given: run=<id> to=<folder>; --help shows all options")
    request = Request(**given)
    if request.merge and request.as_lora is not None:
        raise ConfigError("as_lora", request.as_lora, "is an adapter; leave merge=true out")
    return request


def _text(key: str, value: str) -> str:
    return value


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(key, value, "must be true or false")
    return value.lower() == "true"


READ: dict[str, Callable[[str, str], Any]] = {
    "merge": _boolean,
    "overwrite": _boolean,
    "as_lora": lambda key, value: rank_of(value),
}
"""How the values of options that are no text are read."""


def find_run(run: str, output_dir: str) -> Path:
    """Return the folder of a run named by its id, a beginning of it that no other run shares, or its path."""
    if (expanded(run) / "record.json").is_file():
        return expanded(run)
    runs = expanded(output_dir)
    if not runs.is_dir():
        raise ConfigError("output_dir", output_dir, "there is no such folder")
    ids = sorted(path.parent.name for path in runs.glob("*/record.json"))
    found = [run] if run in ids else [name for name in ids if name.startswith(run)]
    if len(found) == 1:
        return runs / found[0]
    if found:
        raise ConfigError("run", run, f"begins {len(found)} runs: {_some(found)}")
    close = difflib.get_close_matches(run, ids, n=3, cutoff=0.3)
    meant = f"did you mean {' or '.join(close)}?" if close else f"runs are {_some(ids)}"
    raise ConfigError("run", run, f"no such run in {output_dir}; {meant if ids else 'it holds none'}")


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def export(request: Request) -> Path:
    """Write the run as asked and return the folder; nothing is left of an export that fails."""
    from harness.execution.reload import config_of, done_record

    folder = find_run(request.run, request.output_dir)
    record = done_record(folder)
    if of_search(record):
        raise ConfigError("run", request.run, NO_WEIGHTS)
    config = config_of(record)
    _require_possible(record, config, request)
    to = _target(request)
    loaded = _load(record, config, folder)
    with _new_export(to) as target:
        if request.as_lora is not None:
            _write_lora(loaded, target, request.as_lora)
        else:
            (_write_merged if request.merge else _write_adapter)(loaded, target)
    print(f"wrote {to}")
    return to


def _require_possible(record: dict[str, Any], config: RunConfig, request: Request) -> None:
    """Refuse what a method cannot do before anything is loaded."""
    from harness.config import Between
    from harness.methods.base import DirectMethod

    name = config.method.name
    if request.merge and not (config.method.mergeable or config.method.left_by_merge):
        fix = "leave merge out: the adapter folder opens with PeftModel.from_pretrained"
        raise ConfigError("merge", "true", f"what {name} trains cannot be folded into the base's weights; {fix}")
    if not request.merge and isinstance(config.method, DirectMethod):
        raise ConfigError("run", record["id"], f"{name} trains no adapter; write the whole model with merge=true")
    if not request.merge and config.sequence and config.sequence_between is Between.merge:
        fix = "write the whole model with merge=true"
        raise ConfigError("run", record["id"], f"its adapter belongs to weights merged in a sequence of tasks; {fix}")


def _target(request: Request) -> Path:
    """Return the folder to write, refusing to replace anything but an earlier export."""
    to = expanded(request.to).resolve()
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return to
    if not to.is_dir():
        raise ConfigError("to", request.to, "is a file; must be a folder that does not exist or is empty")
    card = to / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError("to", request.to, "holds files that no export wrote; choose another folder")
    if not request.overwrite:
        raise ConfigError("to", request.to, "holds an earlier export; overwrite=true replaces it")
    return to


@contextmanager
def _new_export(to: Path) -> Iterator[Path]:
    """Yield a folder to fill that takes the place of `to` once complete; nothing is left where filling it fails."""
    try:
        with new_folder(to) as target:
            yield target
    except OSError as error:
        reason = "no space left on the disk" if disk_full(error) else error.strerror or str(error)
        raise AssetError(f"to={to}: {reason}; nothing was written") from error


def _load(record: dict[str, Any], config: RunConfig, folder: Path) -> Loaded:
    from harness.execution.reload import load_tuned, prepare_without_data

    prepared = prepare_without_data(config)
    model, backbone = load_tuned(record, config, prepared, folder)
    return Loaded(record, config, prepared, model, backbone, logits_of(model))


def _write_adapter(loaded: Loaded, target: Path) -> None:
    """Write a PEFT adapter folder that names its base by a public name where there is one."""
    configs = loaded.config.method.adapter_configs(loaded.model)
    for config in configs:
        _name_base(config, loaded)
    with _disk_errors():
        loaded.config.method.export_adapter(loaded.model, target)
        loaded.backbone.tokenizer.save_pretrained(target)
    _write_card(loaded, target, partial(adapter_card, tuner=type(configs[0]).__module__))
    _require_equal(loaded, loaded.logits, _opened(loaded, target), "adapter")


def _name_base(peft_config: Any, loaded: Loaded) -> None:
    base, revision = base_of(loaded.config, loaded.prepared.files)
    peft_config.base_model_name_or_path, peft_config.revision = base, revision
    if getattr(peft_config, "tokenizer_name_or_path", None):
        peft_config.tokenizer_name_or_path = base


def _write_lora(loaded: Loaded, target: Path, rank: int | float) -> None:
    """Write another tuner's weight changes as a LoRA adapter, and say how much its logits differ from the run's."""
    lora_conversion.require_convertible(loaded.model)
    base, revision = base_of(loaded.config, loaded.prepared.files)
    described = {"base_model_name_or_path": base, "revision": revision, "task_type": loaded.backbone.peft_task}
    with _disk_errors():
        lora_conversion.write(loaded.model, target, rank, described)
        loaded.backbone.tokenizer.save_pretrained(target)
    account = lora_conversion.account(logits_of(_opened(loaded, target)), loaded.logits)
    print(f"as LoRA ({rank}): {account}")
    note = f"Converted into LoRA ({rank}) from {loaded.config.method.name}; against the run itself {account}."
    _write_card(loaded, target, partial(adapter_card, tuner="peft.", note=note))


def _write_merged(loaded: Loaded, target: Path) -> None:
    """Write a plain model of the base's architecture, in the precision the base was loaded in."""
    import torch

    method = loaded.config.method
    with whole_activations(loaded.model):
        wanted = logits_of(loaded.model)
    merged: Any = method.merge(loaded.model)
    merged.to(getattr(torch, loaded.config.model.dtype.value))
    with _disk_errors():
        plain = _write_left(merged, target, *method.left_by_merge) if method.left_by_merge else merged
        _name_labels(plain, loaded)
        plain.save_pretrained(target)
        loaded.backbone.tokenizer.save_pretrained(target)
    _write_card(loaded, target, merged_card)
    _require_equal(loaded, wanted, _reloaded(loaded, target), "merged model")
    if not torch.equal(wanted, loaded.logits):
        account = f"max |difference of logits| of {float((wanted - loaded.logits).abs().max()):.1e}"
        print(f"without LLM.int8's rounding of activations, which the run had, a {account}")


def _write_left(merged: Any, target: Path, part: str) -> Any:
    """Write what cannot be folded into the weights as an adapter in the merged model's folder; return that model.

    A trained head stands in both: PEFT's adapter of a classifier always has one.
    """
    from harness.methods.peft import unwrap_head

    merged.peft_config["default"].base_model_name_or_path = ".."
    merged.save_pretrained(str(target / part), save_embedding_layers=False)
    unwrap_head(merged)
    return merged.get_base_model()


def _write_card(loaded: Loaded, target: Path, card: Callable[[dict[str, Any], RunConfig, Backbone], str]) -> None:
    try:
        text = card(loaded.record, loaded.config, loaded.backbone)
    except (KeyError, TypeError) as error:
        raise RecordError(f"record {loaded.record['id']}: damaged, its results lack {error}") from error
    write_bytes(target / "README.md", text.encode())


def _name_labels(merged: Any, loaded: Loaded) -> None:
    """Name a classifier's outputs by the labels of the data."""
    names = loaded.prepared.objective.names
    if loaded.backbone.head and names:
        merged.config.id2label = dict(enumerate(names))
        merged.config.label2id = {name: index for index, name in enumerate(names)}


def _opened(loaded: Loaded, target: Path) -> nn.Module:
    """Open the adapter as any user of PEFT does, on a base whose new head starts from another seed."""
    from harness.methods.qlora import keep_unpacked
    from harness.models import load_backbone
    from harness.runtime import device_of

    config, prepared = loaded.config, loaded.prepared
    wanted = replace(prepared.pretrained(config), seed=config.seed + 1)
    base = load_backbone(wanted, device_of(config.train), config.method.quantization()).model
    keep_unpacked(base)
    try:
        return _with_adapters(base, target, config.method.adapters if not is_one(target) else ("",))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = f"PEFT cannot open its adapter on this machine ({first_line(error)})"
        raise ConfigError("run", loaded.record["id"], f"{reason}; write the whole model with merge=true") from error


def _reloaded(loaded: Loaded, target: Path) -> nn.Module:
    """Load the merged model from its folder, as a base without any adapter."""
    from harness.models import load_backbone
    from harness.runtime import device_of
    from harness.storage.assets import Files

    config = loaded.config
    wanted = replace(loaded.prepared.pretrained(config), files=Files(target, {}, "export"), seed=config.seed + 1)
    base = load_backbone(wanted, device_of(config.train)).model
    return _with_adapters(base, target, config.method.left_by_merge)


def is_one(folder: Path) -> bool:
    """Return whether a folder is itself an adapter, as all but those of several parts are."""
    return (folder / "adapter_config.json").is_file()


def _with_adapters(base: Any, folder: Path, parts: tuple[str, ...]) -> nn.Module:
    """Open the adapters of a folder on a base, one over the other."""
    from peft import PeftModel

    from harness.methods.peft import quiet_peft

    model = base
    for number, part in enumerate(parts):
        with quiet_peft():
            model = PeftModel.from_pretrained(model.get_base_model() if number else model, str(folder / part))
    return cast("nn.Module", model)


def logits_of(model: nn.Module) -> torch.Tensor:
    """Return a model's logits on fixed random tokens, in float32 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = cast("Any", model).config.get_text_config().vocab_size
    tokens = torch.randint(vocabulary, CHECKED_TOKENS, generator=generator)
    tokens = tokens.to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return cast("torch.Tensor", logits.float().cpu())


@contextmanager
def whole_activations(model: nn.Module) -> Iterator[None]:
    """Leave out LLM.int8's rounding of activations while this lasts, for a merged model has none of it."""
    from bitsandbytes.nn import Linear8bitLt

    layers = [module for module in model.modules() if isinstance(module, Linear8bitLt)]
    for layer in layers:
        layer.forward = partial(_product, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _product(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return W x + b with the layer's weights dequantised from 8 bits."""
    from torch.nn.functional import linear
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    weight = dequantize_bnb_weight(layer.weight, layer.state).to(x.dtype)
    return linear(x, weight, layer.bias)


def _require_equal(loaded: Loaded, wanted: torch.Tensor, written: nn.Module, what: str) -> None:
    """Refuse an export whose logits are not the tuned model's; print by how much they differ."""
    from harness.runtime import device_of

    found = logits_of(written.to(device_of(loaded.config.train)))
    largest = float(wanted.abs().max())
    difference = float((found - wanted).abs().max())
    allowed = tolerance(loaded.config)
    account = f"max |difference of logits| is {difference:.1e}, {difference / largest:.1e} of max |logit|"
    if not difference <= allowed * largest:  # NaN is refused too
        raise RecordError(
            f"run={loaded.record['id']}: the {what} is not the tuned model: {account}, at most {allowed:.0e}"
        )
    print(f"{what} checked: {account}")


def tolerance(config: RunConfig) -> float:
    """Return how far an export's logits may be off, as a share of the largest."""
    import torch

    dtypes = [getattr(torch, config.model.dtype.value)]
    quantization = config.method.quantization()
    if quantization is not None and quantization.load_in_4bit:
        dtypes.append(quantization.bnb_4bit_compute_dtype)
    return max(TOLERANCE, *(ROUNDINGS * torch.finfo(dtype).eps for dtype in dtypes))


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise a full disk, which safetensors reports in words, as the ``OSError`` that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise AssetError(f"the export cannot be written: {first_line(error)}") from error


def cli() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(USAGE, end="")
        return
    try:
        export(parse(arguments))
    except (HarnessError, NotApplicable) as error:
        print(f"export: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("export: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    cli()
