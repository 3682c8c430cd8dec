"""Windows over long texts: every token is scored exactly once, in the windows that lm-eval uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.compose import compose
from harness.config import RunConfig
from harness.errors import ConfigError, DataError
from harness.execution import session
from harness.forgetting import texts
from harness.forgetting.texts import Text, load, masked_rows, next_token_rows, nothing_to_read, trains_on


class Numbers:
    """A tokenizer whose text is its token ids."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text: str, **_: object) -> object:
        return type("Encoded", (), {"input_ids": [int(word) for word in text.split()]})()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(2, 12))
def test_decoder_windows_are_those_of_lm_eval(count: int, length: int) -> None:
    tokens = list(range(1, count + 1))
    rows = next_token_rows(" ".join(map(str, tokens)), 3, Numbers(), length)  # type: ignore[arg-type]
    theirs = [
        make_disjoint_window(pair)
        for pair in get_rolling_token_windows(tokens, prefix_token=0, max_seq_len=length, context_len=1)
    ]
    assert [(row.ids, row.targets) for row in rows] == [((list(c) + list(t))[:-1], list(t)) for c, t in theirs]
    assert [token for row in rows for token in row.targets] == tokens
    assert all(
        row.owner == 3 and len(row.ids) <= length and row.first == len(row.ids) - len(row.targets) for row in rows
    )


@pytest.fixture(scope="module")
def bert_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(session.fetch(compose("model=bert_tiny", "forgetting=none"))[0].folder)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(8, 20))
def test_encoder_masks_every_token_once(bert_tokenizer: PreTrainedTokenizerBase, words: int, length: int) -> None:
    text = " ".join(f"word{number}" for number in range(words))
    tokens = bert_tokenizer(text, add_special_tokens=False).input_ids
    rows = masked_rows(text, 0, bert_tokenizer, length)
    assert [row.targets[0] for row in rows] == tokens
    for row in rows:
        assert len(row.ids) <= length and row.ids.count(bert_tokenizer.mask_token_id) == 1
        assert row.ids[row.first] == bert_tokenizer.mask_token_id
        assert (row.ids[0], row.ids[-1]) == (bert_tokenizer.cls_token_id, bert_tokenizer.sep_token_id)
        whole = row.ids.copy()
        whole[row.first] = row.targets[0]
        assert str(whole[1:-1])[1:-1] in str(tokens)


@pytest.fixture
def config(llama_folder: Path, data_folder: Path) -> RunConfig:
    overrides = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    return small_runs.configure("runs", *overrides, "forgetting=default")


@pytest.fixture(autouse=True)
def forget_texts() -> Iterator[None]:
    yield
    texts._DOCUMENTS.clear()


def with_text(config: RunConfig, path: Path, lines: list[dict[str, str]], column: str = "text") -> RunConfig:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return replace(config, forgetting=replace(config.forgetting, texts={"mine": Text(path=str(path), column=column)}))


def test_own_file_is_read_without_duplicates(config: RunConfig, tmp_path: Path) -> None:
    mine = with_text(config, tmp_path / "mine.jsonl", [{"text": "one two"}, {"text": "three"}, {"text": " one two "}])
    material = load(mine, session.prepare(config), masked=False)
    assert sorted(document.text for document in material.owners) == ["one two", "three"]
    again = load(mine, session.prepare(config), masked=False)
    assert again.fingerprint == material.fingerprint


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"text": "one"}, {"text": "  "}], r"forgetting\.texts\.mine=.*mine\.jsonl:2: the text is empty"),
        ([], r"forgetting\.texts\.mine=.*: has no rows"),
        ([{"other": "one"}], "no such column"),
    ],
)
def test_bad_text_is_refused(lines: list[dict[str, str]], said: str, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        load(with_text(config, tmp_path / "mine.jsonl", lines), session.prepare(config), masked=False)


def test_no_text_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"forgetting\.texts=\{\}: needs a text"):
        load(replace(config, forgetting=replace(config.forgetting, texts={})), session.prepare(config), masked=False)


@pytest.mark.slow
def test_text_that_is_trained_on_is_left_out(llama_folder: Path) -> None:
    config = compose("model=custom", f"model.path={llama_folder}", "task=openwebtext")
    owt, wiki = (config.forgetting.texts[name] for name in ("openwebtext", "wikipedia"))
    assert trains_on(config, owt.source()) and not trains_on(config, wiki.source())
    assert nothing_to_read(config) is None
    material = load(config, session.prepare(compose("model=bert_tiny")), masked=True)
    assert material.left_out == ["openwebtext"]
    assert {document.origin for document in material.owners} == {"wikipedia"}
    only = replace(config, forgetting=replace(config.forgetting, texts={"openwebtext": owt}))
    assert nothing_to_read(only) == "the task trains on the only text, openwebtext"


def test_text_in_the_home_folder_is_read_again_after_an_edit(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in ("one two", "three"):
        with_text(config, tmp_path / "mine.jsonl", [{"text": words}])
        settings = replace(config.forgetting, texts={"mine": Text(path="~/mine.jsonl")})
        material = load(replace(config, forgetting=settings), session.prepare(config), masked=False)
        assert [document.text for document in material.owners] == [words]
