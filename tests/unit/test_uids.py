"""UIDs: what is accepted, what is derived."""

from __future__ import annotations

import pytest

from pacs import uids
from pacs.errors import InvalidUID


@pytest.mark.parametrize("text", ["1.2.840.10008.1.1", "2.25.0", "1.2.3.004", "0.1"])
def test_accepted(text: str) -> None:
    assert uids.checked(text) == text


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.", ".1.2", "1..2", "1.2.a", "../../etc/passwd", "1.2\n", "1.2/3", "1." + "2" * 64, "1.²"]
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidUID):
        uids.checked(text)


def test_the_letter_of_the_standard_is_stricter() -> None:
    assert uids.is_valid("1.2.0.4")
    assert not uids.is_valid("1.2.004")
    assert not uids.is_valid("3.2")


def test_derived_uids_depend_on_every_part_and_nothing_else() -> None:
    assert uids.derived("key", "a", 1) == uids.derived("key", "a", 1)
    others = {
        uids.derived("key", "a", 1),
        uids.derived("key", "a1"),
        uids.derived("key", "a", 2),
        uids.derived("yek", "a", 1),
    }
    assert len(others) == 4
    assert all(uids.is_valid(uid) for uid in others)


def test_our_implementation_class_uid_is_valid() -> None:
    assert uids.is_valid(uids.IMPLEMENTATION_CLASS_UID)
    assert uids.is_valid(uids.new())
