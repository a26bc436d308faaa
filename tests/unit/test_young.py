"""Which series an arriving instance need not be looked up in, and which it need."""

from __future__ import annotations

from pacs import young


def test_of_a_series_that_began_here_what_has_not_come_is_lacking() -> None:
    series = young.Series()
    assert not series.lacks("1.2", "1.2.1")
    series.begun("1.2")
    assert series.lacks("1.2", "1.2.1")
    series.came("1.2", "1.2.1")
    assert not series.lacks("1.2", "1.2.1")
    assert series.lacks("1.2", "1.2.2")
    series.forget("1.2")
    assert not series.lacks("1.2", "1.2.2")


def test_a_series_of_others_counts_as_young_once_nothing_was_found_often_enough() -> None:
    series = young.Series()
    for _ in range(young.IN_VAIN - 1):
        series.absent("1.2")
        assert not series.lacks("1.2", "1.2.9")
    series.absent("1.2")
    assert series.lacks("1.2", "1.2.9")


def test_what_was_found_once_is_looked_for_again() -> None:
    series = young.Series()
    for _ in range(young.IN_VAIN - 1):
        series.absent("1.2")
    series.forget("1.2")
    series.absent("1.2")
    assert not series.lacks("1.2", "1.2.9")


def test_no_more_than_so_many_series_and_instances_are_remembered() -> None:
    series = young.Series()
    for number in range(young.SERIES + 1):
        series.begun(f"1.{number}")
    assert not series.lacks("1.0", "1")
    assert series.lacks(f"1.{young.SERIES}", "1")
    for number in range(young.INSTANCES + 1):
        series.came("1.1", f"1.1.{number}")
    assert not series.lacks("1.1", "1.1.9999")
