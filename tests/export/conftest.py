"""Each method is trained once a session, and its live model's logits kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_runs import Room, Trained, configure, logits

from harness import identity
from harness.execution import execute, pipeline
from harness.storage.record import Status, read_record


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> Room:
    return Room(tmp_path_factory.mktemp("export") / "runs", llama_folder, data_folder)


@pytest.fixture(scope="session")
def trained(room: Room) -> Callable[[str, str], Trained]:
    """Train a method once a session, and keep its live model's logits."""
    runs: dict[tuple[str, str], Trained] = {}
    keep = pipeline.keep

    def train(kind: str, name: str) -> Trained:
        live: list[torch.Tensor] = []

        def watched(run: Any, stage: Any, model: Any, folder: Path) -> int:
            live.append(logits(model))
            return keep(run, stage, model, folder)

        if (kind, name) not in runs:
            config = configure(room, kind, name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "keep", watched)
                status = execute.execute(config)
            folder = Path(config.output_dir) / identity.run_id(config)
            assert status is Status.done, read_record(folder)
            runs[kind, name] = Trained(config, folder, live[0])
        return runs[kind, name]

    return train
