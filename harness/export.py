"""Exporting a finished run: ``python -m harness.export run=<id> to=<folder>``, a PEFT adapter or a merged model.

What is written is opened again the way its user will, and its logits are compared with the run's,
before it takes its place on disk.
"""

from __future__ import annotations

import difflib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import AssetError, ConfigError, HarnessError, RecordError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.assets import Files
    from harness.config import RunConfig
    from harness.models import Backbone
    from harness.session import Prepared

USAGE = """\
Write a finished run as a standard PEFT adapter folder, or merged as a plain Hugging Face model.

  python -m harness.export run=<id> to=<folder> [merge=true] [output_dir=runs] [overwrite=true]

  run         a run's id, the beginning of one, or a run's folder
  to          the folder to write; it must not exist, or be empty
  merge       true: fold what was trained into the base's weights and write the whole model (default: false)
  output_dir  where runs are (default: runs)
  overwrite   true: replace a folder that an earlier export wrote (default: false)
"""
MARK = "peft-harness-export"
"""The tag of the model card by which an earlier export is known, the only thing ever overwritten."""
TOLERANCE = 1e-3
"""Of the largest logit: how far an export in float32 may differ. Merging reorders sums and is off by 1e-6."""
ROUNDINGS = 8
"""Units in the last place of a shorter type: its roundings add up from layer to layer."""
INT8_TOLERANCE = 0.1
"""LLM.int8 rounds activations to 8 bits, which a merged model does not."""
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
        given[key] = _boolean(key, value) if key in ("merge", "overwrite") else value
    for key in ("run", "to"):
        if key not in given:
            raise ConfigError(key, "", "must be given: run=<id> to=<folder>; --help shows all options")
    return Request(**given)


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ConfigError(key, value, "must be true or false")
    return value.lower() == "true"


def find_run(run: str, output_dir: str) -> Path:
    """Return the folder of a run named by its id, a beginning of it that no other run shares, or its path."""
    if (Path(run).expanduser() / "record.json").is_file():
        return Path(run).expanduser()
    runs = Path(output_dir).expanduser()
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
    from harness.reload import config_of, done_record

    folder = find_run(request.run, request.output_dir)
    record = done_record(folder)
    config = config_of(record)
    _require_possible(record, config, request)
    to = _target(request)
    loaded = _load(record, config, folder)
    with _new_export(to) as target:
        (_write_merged if request.merge else _write_adapter)(loaded, target)
    print(f"wrote {to}")
    return to


def _require_possible(record: dict[str, Any], config: RunConfig, request: Request) -> None:
    """Refuse what a method cannot do before anything is loaded."""
    from harness.methods.base import DirectMethod

    name = config.method.name
    if request.merge and not config.method.mergeable:
        fix = "leave merge out: the adapter folder opens with PeftModel.from_pretrained"
        raise ConfigError("merge", "true", f"what {name} trains cannot be folded into the base's weights; {fix}")
    if not request.merge and isinstance(config.method, DirectMethod):
        raise ConfigError("run", record["id"], f"{name} trains no adapter; write the whole model with merge=true")


def _target(request: Request) -> Path:
    """Return the folder to write, refusing to replace anything but an earlier export."""
    to = Path(request.to).expanduser().resolve()
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
    """Yield a folder to fill that takes the place of `to` once complete; leave nothing where that fails."""
    from harness.files import disk_full, new_folder

    try:
        with new_folder(to) as target:
            try:
                yield target
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
    except OSError as error:
        reason = "no space left on the disk" if disk_full(error) else error.strerror or str(error)
        raise AssetError(f"to={to}: {reason}; nothing was written") from error


def _load(record: dict[str, Any], config: RunConfig, folder: Path) -> Loaded:
    from harness.reload import load_tuned, prepare_without_data

    prepared = prepare_without_data(config)
    model, backbone = load_tuned(record, config, prepared, folder)
    return Loaded(record, config, prepared, model, backbone, logits_of(model))


def _write_adapter(loaded: Loaded, target: Path) -> None:
    """Write a PEFT adapter folder that says by a public name, where there is one, which base it fits."""
    peft_config = cast("Any", loaded.model).peft_config["default"]
    base, revision = base_of(loaded.config, loaded.prepared.files)
    peft_config.base_model_name_or_path, peft_config.revision = base, revision
    if getattr(peft_config, "tokenizer_name_or_path", None):
        peft_config.tokenizer_name_or_path = base
    with _saving():
        loaded.config.method.export_adapter(loaded.model, target)
        loaded.backbone.tokenizer.save_pretrained(target)
    _write_card(loaded, target, merged=False)
    _require_equal(loaded, _opened(loaded, target), "adapter")


def _write_merged(loaded: Loaded, target: Path) -> None:
    """Write a plain model of the base's architecture, in the precision the base was loaded in."""
    import torch

    merged: Any = loaded.config.method.merge(loaded.model)
    merged.to(getattr(torch, loaded.config.model.dtype.value))
    names = getattr(loaded.prepared.objective, "names", None)
    if loaded.backbone.head and names:
        merged.config.id2label = dict(enumerate(names))
        merged.config.label2id = {name: index for index, name in enumerate(names)}
    with _saving():
        merged.save_pretrained(target)
        loaded.backbone.tokenizer.save_pretrained(target)
    _write_card(loaded, target, merged=True)
    _require_equal(
        loaded, _reloaded(loaded, target, loaded.prepared.files.__class__(target, {}, "export")), "merged model"
    )
