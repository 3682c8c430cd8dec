"""Continued pre-training on a folder of texts: files read, long ones cut into passages, held-out ones by their hash."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, DataError
from harness.execution import session
from harness.forgetting import texts
from harness.forgetting.texts import Text
from harness.identity import run_id
from harness.storage import assets
from harness.storage.record import Status
from harness.tasks.base import SPLITS, Splits
from harness.tasks.language_modeling import LanguageModeling, passages
from harness.tasks.source import Source, Sources, read_rows

CACHE = Path("unused")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of texts with one in a folder below, and files that are no text."""
    path = tmp_path / "texts"
    (path / "more").mkdir(parents=True)
    (path / "a.txt").write_text("first\nline\n", encoding="utf-8-sig")
    (path / "b.md").write_bytes("naïve 日本語\r\nend".encode())
    (path / "more" / "c.txt").write_text("third", encoding="utf-8")
    (path / "picture.png").write_bytes(b"\x89PNG")
    (path / ".hidden.txt").write_text("not this", encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Read all rows of a local source, found as a run finds it."""
    source = Source(path=str(path), **options)
    return list(read_rows(source, assets.fetch_source(source, CACHE)))


def test_a_folder_is_read_file_by_file(folder: Path) -> None:
    assert read(folder) == [
        {"text": "first\nline\n", "file": "a.txt"},
        {"text": "naïve 日本語\nend", "file": "b.md"},
        {"text": "third", "file": "c.txt"},
    ]
    assert read(folder / "a.txt") == read(folder)[:1]


def test_a_folder_may_hold_rows_too(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"text": "a row"}\n', encoding="utf-8")
    assert [row["text"] for row in read(folder)][2:] == ["a row", "third"]


def test_a_format_takes_files_of_any_ending(folder: Path) -> None:
    (folder / "picture.png").unlink()
    (folder / "page").write_text("fourth", encoding="utf-8")
    assert [row["file"] for row in read(folder, format="text")] == ["a.txt", "b.md", "c.txt", "page"]


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_named(content: str, folder: Path) -> None:
    (folder / "b.md").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"task\.data=.*b\.md: the file has no text"):
        read(folder)


def test_a_folder_without_texts_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    said = r"task\.data\.all\.path=.*: the folder has no file that ends in \.csv, \.json, .*, \.txt"
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    config = small_runs.configure("runs", *task(tmp_path))
    with pytest.raises(ConfigError, match=said):
        run_id(config)


def task(folder: Path) -> list[str]:
    """Return the shortest overrides that choose a user's folder of texts."""
    return ["task=language_modeling", f"task.data.all.path={folder}"]


def test_an_id_counts_what_the_files_hold_and_not_where_the_folder_is(folder: Path, tmp_path: Path) -> None:
    first = run_id(small_runs.configure("runs", *task(folder)))
    moved = folder.rename(tmp_path / "elsewhere")
    assert run_id(small_runs.configure("runs", *task(moved))) == first
    (moved / "picture.png").write_bytes(b"another")
    assert run_id(small_runs.configure("runs", *task(moved))) == first
    (moved / "more" / "c.txt").write_text("third, edited", encoding="utf-8")
    edited = run_id(small_runs.configure("runs", *task(moved)))
    (moved / "new.txt").write_text("one more", encoding="utf-8")
    assert len({first, edited, run_id(small_runs.configure("runs", *task(moved)))}) == 3


def test_passages_of_whole_documents_change_no_id_from_before(data_folder: Path) -> None:
    """The setting came after ids were given out, and 0 is what every run was."""
    base = small_runs.task("language_modeling", data_folder)
    plain = run_id(small_runs.configure("runs", *base))
    assert run_id(small_runs.configure("runs", *base, "task.passage_words=0")) == plain
    assert run_id(small_runs.configure("runs", *base, "task.passage_words=50")) != plain


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 20))
def test_passages_hold_every_word_once_in_order(lengths: list[int], words: int) -> None:
    lines = [" ".join(f"w{line}.{number}" for number in range(count)) for line, count in enumerate(lengths)]
    text = "\n".join(lines)
    found = passages(text, words)
    assert " ".join(found).split() == text.split()
    assert all(words <= len(passage.split()) < 4 * words for passage in found) or len(found) <= 1


def test_passages_end_with_a_line_where_they_can() -> None:
    text = "a b c\nd e\n\nf g h i\nj"
    assert passages(text, 4) == ["a b c\nd e", "f g h i\nj"]
    assert passages(text, 0) == [text]
    assert passages("a b c d e f g h i", 3) == ["a b c d e f", "g h i"]  # one line: at twice as many words


def load(**settings: Any) -> Splits:
    """Load a task of a local folder."""
    return LanguageModeling(**settings).load(lambda source: Path(str(source.path)))


def test_a_single_long_text_is_split_by_its_passages(tmp_path: Path) -> None:
    book = "\n".join(f"Sentence number {n} of the one book that there is." for n in range(400))
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    data = Sources(all=Source(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"the split has no rows \(1 text.*\); task\.passage_words=100 cuts long texts"):
        load(data=data)
    splits = load(data=data, passage_words=40)
    parts = [[item.fields["text"] for item in getattr(splits, name)] for name in SPLITS]
    assert sorted(word for part in parts for text in part for word in text.split()) == sorted(book.split())
    assert len(set.union(*map(set, parts))) == sum(map(len, parts))
    assert all(re.fullmatch(r"(Sentence number \d+ of the one book that there is\.\n?)+", text) for text in parts[0])


def test_negative_passages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.passage_words=-1: must be at least 0"):
        LanguageModeling(data=Sources(all=Source(path="x")), passage_words=-1)


def test_a_folder_is_general_text_too(folder: Path, llama_folder: Path, data_folder: Path) -> None:
    """A user's own held-out folder shows what training on another forgot."""
    overrides = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    config = small_runs.configure("runs", *overrides, "forgetting=default")
    mine = replace(config, forgetting=replace(config.forgetting, texts={"mine": Text(path=str(folder))}))
    assert run_id(mine) != run_id(config)
    material = texts.load(mine, session.prepare(mine), masked=False)
    assert sorted(document.text for document in material.owners) == ["first\nline", "naïve 日本語\nend", "third"]
    (folder / "a.txt").write_text("edited", encoding="utf-8")
    material = texts.load(mine, session.prepare(mine), masked=False)
    assert sorted(document.text for document in material.owners) == ["edited", "naïve 日本語\nend", "third"]


def test_a_long_text_is_tokenised_without_a_complaint(
    tmp_path: Path, gpt2_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tokenizer warned that a book is longer than the model's positions, though blocks are what the model reads."""
    (tmp_path / "book.txt").write_text("\n".join(f"the film here was fine {n}" for n in range(600)), encoding="utf-8")
    model = ["model=custom", f"model.path={gpt2_folder}"]
    config = small_runs.configure("runs", *model, *task(tmp_path), "task.passage_words=400")
    prepared = session.prepare(config)
    assert len(prepared.features) > 2
    assert not caplog.records


@pytest.mark.slow
def test_a_folder_is_trained_on_and_forgets(data_folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    """The whole row: own folder, packing, perplexity of what was held out, and what was forgotten meanwhile."""
    lines = [f"{text}, and so was the rest of it." for text, _ in small_runs.sentences()]
    (tmp_path / "texts").mkdir()
    for part in range(2):
        (tmp_path / "texts" / f"{part}.txt").write_text("\n".join(lines[part::2]), encoding="utf-8")
    model = ["model=custom", f"model.path={gpt2_folder}", "method=full", "train.learning_rate=5e-3"]
    own = [*task(tmp_path / "texts"), "task.passage_words=30", "task.max_length=32", "train.max_steps=16"]
    probes = [*small_runs.small_probes(data_folder), "forgetting.texts.openwebtext.path=" + str(tmp_path / "other.txt")]
    (tmp_path / "other.txt").write_text("Quite another text 0123456789.", encoding="utf-8")
    _, record = small_runs.run(tmp_path / "runs", *model, *own, *probes)
    assert record["status"] == Status.done, record["traceback"]
    before, after = (record["scores"][phase]["test"]["perplexity"] for phase in ("before", "after"))
    assert after["high"] < before["low"]
    assert record["forgetting"]["lm_loss"]["metrics"]["loss/openwebtext"]["delta"]["value"] != 0
    assert record["config"]["task"]["data"]["all"]["path"].endswith("texts")
