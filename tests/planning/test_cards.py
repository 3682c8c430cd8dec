"""Names of cards and sizes as people write them."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.planning.cards import CARDS, card


@pytest.mark.parametrize(
    ("text", "memory"),
    [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("512 MiB", 2**29), ("1.5gib", 3 * 2**29), ("900MB", 9 * 10**8)],
)
def test_a_size_is_read_with_its_unit(text: str, memory: int) -> None:
    assert card(text).memory == memory


def test_a_size_is_shown_as_it_was_written() -> None:
    assert card(" 24GiB ").name == "24GiB"
    assert card("L40S").name == card("l40s").name


def test_a_card_is_known_by_name_with_less_memory_than_is_printed_on_it() -> None:
    assert 44e9 < card("L40S").memory < 48e9
    assert all(one.bandwidth and one.teraflops for one in CARDS.values())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("24", "gpu=24: has no unit; write 24GiB (2³⁰ bytes) or 24GB (10⁹ bytes)"),
        ("24TiB", "gpu=24TiB: unknown unit tib; write 24GiB (2³⁰ bytes) or 24GB (10⁹ bytes)"),
        ("0GiB", "gpu=0GiB: must be above 0"),
    ],
)
def test_a_size_that_says_too_little_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        card(text)
    assert str(refused.value) == line


def test_an_unknown_card_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"^gpu=a100_8: no such card; did you mean a100_80\? .*, or its memory"):
        card("a100_8")
