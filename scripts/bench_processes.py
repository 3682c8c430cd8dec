"""Peak resident memory of full fine-tuning SmolLM2 in one process and in each of two with ``distributed=shard``.

``python scripts/bench_processes.py [key=value ...]``, on CPUs; each run in processes of its own, because a process
keeps what earlier runs made it load.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = [
    "model=smollm2_135m",
    "method=full",
    "train.max_steps=3",
    "train.save_steps=2",
    "train.use_cpu=true",
    "task.max_train=200",
    "task.max_validation=32",
    "task.max_test=32",
    "forgetting=none",
    "tracker=none",
]
TARGET = 0.65


def peaks(folder: Path, *more: str) -> list[dict[str, float]]:
    """Run once and return the resident peak of each section in GiB, for each process."""
    command = [sys.executable, "-m", "harness.run", *SETTINGS, *more, f"output_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("full-*/record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    every = record.get("memory_by_process") or [record["memory"]]
    return [{section: peak["resident_gib"] for section, peak in own.items()} for own in every]


def main() -> None:
    """Print both runs' peaks by section, and the ratio of the highest."""
    more = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        one = peaks(Path(folder) / "one", *more)
        two = peaks(Path(folder) / "two", *more, "processes=2", "distributed=shard", "train.fused_loss=false")
    print(f"{'section':<16} one process  rank 0  rank 1  (GiB)")
    for section, value in one[0].items():
        print(f"{section:<16} {value:11.2f} {two[0].get(section, 0):7.2f} {two[1].get(section, 0):7.2f}")
    ratio = max(max(own.values()) for own in two) / max(one[0].values())
    print(f"highest peak of a rank / of one process: {ratio:.2f} (target {TARGET})")


if __name__ == "__main__":
    main()
