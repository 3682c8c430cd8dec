"""A cache, and a made package index in place of PyPI."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_wheels import MEMBERS, Index, Pieces

from harness.storage import wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    made = Index(tmp_path, MEMBERS)
    monkeypatch.setattr(wheels, "download_wheel", made.download)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pieces:
    made = Pieces(tmp_path)
    monkeypatch.setattr(wheels, "download_wheel", made.download)
    return made
