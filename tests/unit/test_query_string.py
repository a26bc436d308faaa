"""The query of an address as pairs: what needs no decoding is read as `urllib` reads it, only sooner."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicomweb.calls import MAX_QUERY_FIELDS, _pairs


@given(st.text(alphabet="ab1=&%+;?/\\*, 2Ff", max_size=40))
@example("PatientID=P1&limit=1")
@example("&&a&=b&c=d=e&")
@example("a=%e4")
def test_as_urllib_reads_it(text: str) -> None:
    try:
        expected = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011  which it is does not matter: all are one refusal
            _pairs(text)
    else:
        assert _pairs(text) == expected


@pytest.mark.parametrize("field", ["a=1", "a=%31", "", "a"])
def test_too_many_fields(field: str) -> None:
    assert len(_pairs("&".join(["a=1"] * MAX_QUERY_FIELDS))) == MAX_QUERY_FIELDS
    with pytest.raises(ValueError, match=r"(?i)fields"):
        _pairs("&".join([field] * (MAX_QUERY_FIELDS + 1)))
