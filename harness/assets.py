"""Pinned wheel, hub id or local path → files on disk, checked by hash.

A wheel is only unpacked: it is never installed and no code of it is run. What is fetched is kept in
a cache folder whose contents are checked again on every use, announced through this module's logger,
and safe to share between processes. Nothing heavy is imported until a model has to be converted.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.config import ModelConfig, Wheel
from harness.errors import AssetError, ConfigError
from harness.tasks.source import Source

log = logging.getLogger(__name__)

CACHE_VARIABLE = "PEFT_HARNESS_CACHE"
MANIFEST = "manifest.json"
UNSAFE = frozenset({".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth", ".py"})
"""Endings that are never unpacked or downloaded: pickles can run code when they are read."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""What a model needs on disk: weights, configuration, tokenizer, chat template."""
HASHED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.jinja",
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
Entry = dict[str, "int | str"]
"""What a manifest says of a file: its ``size`` in bytes and its ``sha256``."""
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
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/peft-harness").expanduser().absolute()


def sha256_of(path: Path | str) -> str:
    """Return a file's sha256, read once a process unless its size or time of change differs."""
    resolved = Path(path).resolve()
    status = resolved.stat()
    return _sha256(str(resolved), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_model(model: ModelConfig, cache: Path) -> Files:
    """Return the model's folder of safetensors, configuration and tokenizer.

    Raises :class:`ConfigError` where the settings name no usable model and :class:`AssetError` where
    a download failed.
    """
    if model.path:
        return _local_model(model.path)
    if model.id:
        return _hub_model(model)
    if not model.member:
        raise ConfigError("model.member", model.member, "must name the folder or GGUF file inside the wheel")
    return _wheel_model(model, cache)


def fetch_source(source: Source, cache: Path, licence: str | None = None) -> Path | None:
    """Return the file that holds the source's rows, or None for a hub data set, which `datasets` fetches."""
    if source.path:
        path = Path(source.path).expanduser()
        if not path.is_file():
            raise ConfigError("task.data.path", source.path, "there is no such file")
        return path
    if source.id:
        return None
    if not source.member:
        raise ConfigError("task.data.member", source.member, "must name the file inside the wheel")
    return fetch_member(source.wheel, source.member, cache, licence)


def fetch_member(wheel: Wheel, member: str, cache: Path, licence: str | None = None) -> Path:
    """Return `member`, a file or folder taken out of the pinned wheel, downloading it at most once.

    A cached copy whose size or hash no longer fits its manifest is reported and fetched again. Raises
    :class:`AssetError` where the download fails, its sha256 differs, or the disk is full.
    """
    return fetch_members(wheel, [member], cache, licence)[0]


def fetch_members(wheel: Wheel, members: Sequence[str], cache: Path, licence: str | None = None) -> list[Path]:
    """Return several members of one wheel as :func:`fetch_member` does each, by one download."""
    folder = cache / "wheels" / _wheel_key(wheel)
    with _disk_errors(folder):
        if not _all_intact(folder, members):
            with _locked(folder):
                # Another process may have fetched some while this one waited.
                missing = [member for member in members if not _intact(folder, member)]
                if missing:
                    _fetch_into(folder, wheel, missing, licence)
    return [folder / member for member in members]


def _all_intact(folder: Path, members: Sequence[str]) -> bool:
    return all(_intact(folder, member) for member in members)


def _local_model(path: str) -> Files:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError("model.path", path, "there is no such folder")
    _require_model(folder, "model.path", path)
    return Files(folder, _model_hashes(folder), f"local folder {folder}")


def _require_model(folder: Path, key: str, value: str) -> None:
    """Refuse a folder that is no model, and one whose weights are pickles."""
    if not (folder / "config.json").is_file():
        raise ConfigError(key, value, "has no config.json; must be a Hugging Face model")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in UNSAFE)
    found = f"; it has only {', '.join(pickles)}" if pickles else "; it has none"
    raise ConfigError(key, value, f"weights must be safetensors{found}")


def _model_hashes(folder: Path) -> dict[str, str]:
    files = {file for pattern in HASHED for file in folder.glob(pattern) if file.is_file()}
    return {file.name: sha256_of(file) for file in sorted(files)}


def _hub_model(model: ModelConfig) -> Files:
    """Download into the hub client's own cache, so that a model already there is not fetched twice."""
    name = str(model.id)
    folder = _hub_folder(name, model.revision)
    _require_model(folder, "model.id", name)
    return Files(folder, _model_hashes(folder), f"hub {name} at {folder.name}")


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
        raise ConfigError("model.id", name, _first_line(error)) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise AssetError(f"model.id={at}: cannot be fetched from the hub: {_first_line(error)}") from None
    return Path(found)


def _wheel_model(model: ModelConfig, cache: Path) -> Files:
    member = str(model.member)
    wheel = f"{model.wheel.package} {model.wheel.version} (wheel {str(model.wheel.sha256)[:12]}), {member}"
    if PurePosixPath(member).suffix == ".gguf":
        folder = _converted(model, cache)
        return Files(folder, _model_hashes(folder), f"{wheel}, {_manifest(folder)['made_by']}")
    folder = fetch_member(model.wheel, member, cache, model.licence)
    _require_model(folder, "model.member", member)
    return Files(folder, _model_hashes(folder), wheel)


def _converted(model: ModelConfig, cache: Path) -> Path:
    """Return the folder of safetensors made from the wheel's GGUF file, converting it at most once.

    Reading GGUF takes 20 s for 135 M parameters, reading the safetensors made from it 0.25 s.
    """
    member = str(model.member)
    folder = cache / "converted" / f"{_wheel_key(model.wheel)}-{PurePosixPath(member).stem}"
    with _disk_errors(folder):
        if not _intact(folder):
            gguf = fetch_member(model.wheel, member, cache, model.licence)
            with _locked(folder):
                if not _intact(folder):
                    _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    _report_damage(folder)
    log.info("converting %s to safetensors, once", gguf.name)
    _require_space(folder, FLOAT32_PER_GGUF_BYTE * gguf.stat().st_size)
    with _temporary(folder) as temporary:
        made = temporary / "model"
        made_by = gguf_to_safetensors(gguf, made)
        entries = {str(file.relative_to(made)): _entry(file) for file in made.rglob("*") if file.is_file()}
        _write_manifest(made, {"made_by": made_by, "files": entries})
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


def _fetch_into(folder: Path, wheel: Wheel, members: Sequence[str], licence: str | None) -> None:
    """Download the wheel, check it, and move what `members` name into `folder`; the manifest comes last."""
    for member in members:
        _report_damage(folder, member)
    with _temporary(folder) as temporary:
        file = download_wheel(wheel, temporary)
        size = file.stat().st_size
        _require_hash(file, wheel)
        unpacked: dict[str, Path] = {}
        for member in members:
            unpacked |= _unpack(file, member, temporary / "unpacked", wheel)
        entries = {name: _entry(path) for name, path in unpacked.items()}
        for name, path in unpacked.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
    files = {**_manifest(folder).get("files", {}), **entries}
    _write_manifest(folder, {"wheel": f"{wheel.package}=={wheel.version}", "sha256": wheel.sha256, "files": files})
    log.info(
        "fetched %s %s (%.0f MB): %s%s",
        wheel.package,
        wheel.version,
        size / 1e6,
        ", ".join(members),
        f", licence {licence}" if licence else "",
    )


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download the pinned wheel into `folder` by pip, from the index pip is configured for.

    ``--only-binary``: building a source package would run its code.
    """
    pinned = f"{wheel.package}=={wheel.version}"
    options = ["--no-deps", "--no-input", "--only-binary=:all:", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, pinned, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and files:
        return files[0]
    lines = [line.strip() for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
    raise AssetError(f"{pinned} cannot be downloaded: {reason}")


def _require_hash(file: Path, wheel: Wheel) -> None:
    got = sha256_of(file)
    if got != str(wheel.sha256).lower():
        raise AssetError(
            f"{wheel.package}=={wheel.version}: the downloaded wheel has sha256 {got}, "
            f"expected {wheel.sha256}; nothing of it was kept"
        )


def _unpack(file: Path, member: str, target: Path, wheel: Wheel) -> dict[str, Path]:
    """Unpack the file `member`, or all of the folder `member` but pickles and code; return name → path."""
    unpacked: dict[str, Path] = {}
    with zipfile.ZipFile(file) as archive:
        wanted = [entry for entry in archive.infolist() if _wanted(entry, member)]
        if not wanted:
            raise AssetError(f"{wheel.package}=={wheel.version} has no member {member}")
        _require_space(target, sum(entry.file_size for entry in wanted))
        for entry in wanted:
            path = target / _safe(entry.filename, wheel)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            unpacked[entry.filename] = path
    return unpacked


def _wanted(entry: zipfile.ZipInfo, member: str) -> bool:
    name = entry.filename
    inside = name == member or name.startswith(member.rstrip("/") + "/")
    return inside and not entry.is_dir() and PurePosixPath(name).suffix not in UNSAFE


def _safe(name: str, wheel: Wheel) -> str:
    """Refuse an archive name that would be written outside the folder it is unpacked into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise AssetError(f"{wheel.package}=={wheel.version}: the member {name!r} would be written outside the cache")
    return name


def _wheel_key(wheel: Wheel) -> str:
    return f"{wheel.package}-{wheel.version}-{str(wheel.sha256)[:12].lower()}"


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # never written, or damaged: fetch again
        return {}


def _write_manifest(folder: Path, content: dict[str, Any]) -> None:
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _entry(file: Path) -> Entry:
    return {"size": file.stat().st_size, "sha256": sha256_of(file)}


def _intact(folder: Path, member: str | None = None) -> bool:
    """Tell whether `folder` holds `member`, or everything in its manifest, as it was first written."""
    files = _files(folder, member)
    return bool(files) and all(_fits(folder / name, entry) for name, entry in files.items())


def _report_damage(folder: Path, member: str | None = None) -> None:
    for name, entry in _files(folder, member).items():
        if not _fits(folder / name, entry):
            log.warning("the cached file %s is damaged or missing; fetching it again", folder / name)


def _files(folder: Path, member: str | None) -> dict[str, Entry]:
    """Return what the manifest says of `member`, or of everything."""
    files: dict[str, Entry] = _manifest(folder).get("files", {})
    if member is None:
        return files
    return {name: entry for name, entry in files.items() if name == member or name.startswith(member.rstrip("/") + "/")}


def _fits(file: Path, entry: Entry) -> bool:
    return file.is_file() and file.stat().st_size == entry["size"] and sha256_of(file) == entry["sha256"]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time fill `folder`; the lock of a process that died is free at once."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`, on the same disk, so that what is finished can be renamed into place.

    The caller holds the lock of `folder`, so what lies there already was left by a process that was killed.
    """
    prefix = f".partial-{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _require_space(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise AssetError(
            f"no space on the disk of {folder}: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free; "
            "choose another disk by cache_dir=<folder>"
        )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written and the like into one line."""
    try:
        yield
    except OSError as error:
        hint = "choose another folder by cache_dir=<folder>"
        raise AssetError(f"{folder} cannot be written: {error.strerror or _first_line(error)}; {hint}") from None
    except zipfile.BadZipFile as error:
        raise AssetError(f"{folder.name} is not a wheel: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
