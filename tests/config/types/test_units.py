"""Durations and sizes: what is read, what is refused, and that nothing is lost between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.config.types.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("15s", 15.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("0.5ms", None),
        ("8761h", None),
    ],
)
def test_a_duration_is_seconds_between_a_millisecond_and_a_year(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="duration is"):
            parse_duration(text)
    else:
        assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("512B", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("1.5KiB", 1536)],
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", [15, 0, 1.5, "15", "1:30", "0"])
def test_a_bare_number_is_asked_for_its_unit(value: object) -> None:
    with pytest.raises(ValueError, match=r"a duration needs a unit .*250ms, 15s, 2m or 1h"):
        parse_duration(value)
    with pytest.raises(ValueError, match=r"a size needs a unit .*512B, 64KiB, 1MiB or 1GiB"):
        parse_size(value)


@pytest.mark.parametrize("value", ["0s", "0ms", "0.0h"])
def test_a_zero_duration_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be zero"):
        parse_duration(value)


def test_a_zero_size_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be zero"):
        parse_size("0B")


@pytest.mark.parametrize("value", ["-15s", -15, "-1"])
def test_a_negative_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["15 s", "15S", "15sec", "s", "1h30m", "\u0661s", "1e3s", "soon", ""])
def test_other_text_is_not_a_duration(value: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["64KB", "64k", "64kib", "64 KiB", "big"])
def test_other_text_is_not_a_size(value: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(value)


@pytest.mark.parametrize("value", [True, None, [], {}])
def test_what_is_neither_text_nor_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(value)


def test_half_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_size("0.5B")


def test_a_size_has_a_largest() -> None:
    with pytest.raises(ValueError, match="largest size is 1024GiB"):
        parse_size("99999999GiB")


@given(st.integers(1, 10**9), st.sampled_from(["ms", "s"]))
def test_a_written_duration_reads_back_as_itself(number: int, unit: str) -> None:
    if unit == "s":
        number = number % 31_536_000 + 1
    seconds = parse_duration(f"{number}{unit}")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.decimals(min_value="0.001", max_value=1_000_000, places=6))
def test_a_decimal_duration_reads_back_as_itself(number: object) -> None:
    seconds = parse_duration(f"{number:f}s")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 1 << 40))
def test_a_written_size_reads_back_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (15.0, "15s"), (90.0, "90s"), (300.0, "5m"), (3600.0, "1h"), (1.5, "1500ms")],
)
def test_a_duration_is_shown_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
