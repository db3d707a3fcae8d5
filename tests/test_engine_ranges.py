"""What a Range asks for, and what an If-None-Match knows."""

import pytest

from embedfill.engine.http.ranges import matches, readable


@pytest.mark.parametrize(
    ("header", "left"),
    [
        ("bytes=0-0", "bytes=0-0"),
        ("Bytes= 2-", "bytes=2-9"),
        ("bytes=-3", "bytes=7-9"),
        ("bytes=-99", "bytes=0-9"),
        ("bytes=5-99", "bytes=5-9"),
        ("bytes=0-1, ,8-", "bytes=0-1,8-9"),
        ("bytes=0-1,50-60", "bytes=0-1"),
        ("bytes=10-", "bytes=10-"),
        ("bytes=-0", "bytes=10-"),
        ("bytes=3-2", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,x", None),
        ("bytes=²-", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("bytes=" + "0-0," * 2000, None),
        ("lines=1-2", None),
        ("0-1", None),
    ],
)
def test_what_can_be_served(header: str, left: str | None) -> None:
    assert readable(header, 10) == left


def test_of_an_empty_file_nothing_can() -> None:
    assert readable("bytes=0-", 0) == readable("bytes=-5", 0) == "bytes=0-"


def test_tags() -> None:
    assert matches('"a"', '"a"') and matches('W/"a"', '"a"') and matches('"b", "a"', '"a"') and matches("*", '"a"')
    assert not matches("", '"a"') and not matches('"b"', '"a"') and not matches("a", '"a"')
