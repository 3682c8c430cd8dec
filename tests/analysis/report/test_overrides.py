"""Values written for Hydra's command line, read back by Hydra's own parser."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from analysis.views.report.overrides import differences, written

PARSER = OverridesParser.create()
TEXT = st.text(st.sampled_from("ab'\"\\${}[]:,=\n \t~+@#%1e.한\u2028"), max_size=12)
VALUES = TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()


def read(text: str) -> object:
    config = OmegaConf.create({})
    OmegaConf.update(config, "a", PARSER.parse_overrides([f"a={text}"])[0].value())
    return OmegaConf.to_container(config, resolve=True)["a"]


@pytest.mark.slow
@given(VALUES | st.lists(VALUES, max_size=3))
def test_any_value_reads_back(value: object) -> None:
    found = read(written(value))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "value", ["null", "True", "1e-5", "it's", "\\'", "back\\", "\\${y}", "{a: b}", "/data/my file.csv", "", " x "]
)
def test_text_that_looks_like_something_else(value: str) -> None:
    assert read(written(value)) == value


def test_differences_lead_from_one_to_the_other() -> None:
    composed = {"train": {"steps": 60, "other": {"gone": 1}}, "seed": 0}
    record = {"train": {"steps": 20, "other": {}, "new": "x y"}, "seed": 0}
    assert [*differences(record, composed)] == ["train.steps=20", "~train.other.gone", "++train.new='x y'"]
