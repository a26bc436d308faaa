"""PS3.18 8.7.8.1: which representation an Accept list gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    DICOM_XML,
    JPEG,
    JSON,
    OCTET_STREAM,
    PNG,
    NotAcceptable,
    Offer,
    accepts_gzip,
    negotiate,
    parse,
    ranges,
)
from pacs.errors import InvalidInput

EXPLICIT_LE = "1.2.840.10008.1.2.1"
JPEG_2000 = "1.2.840.10008.1.2.4.90"

METADATA = (Offer(DICOM_JSON, aliases=(JSON,)), Offer(DICOM_XML, multipart=True), Offer(DICOM_XML))
RENDERED = (Offer(JPEG), Offer(PNG))
MODEL = Offer("model/x3d+xml")
INSTANCE = (
    Offer(DICOM, multipart=True, transfer_syntax=EXPLICIT_LE),
    Offer(DICOM, multipart=True, transfer_syntax=JPEG_2000, default=False, as_stored=True),
    Offer(DICOM, transfer_syntax=EXPLICIT_LE),
    Offer(DICOM, transfer_syntax=JPEG_2000, default=False, as_stored=True),
)
FRAMES = (
    Offer(OCTET_STREAM, multipart=True, transfer_syntax=EXPLICIT_LE),
    Offer("image/jp2", multipart=True, transfer_syntax=JPEG_2000, as_stored=True, aliases=(OCTET_STREAM,)),
)


@pytest.mark.parametrize(
    ("offers", "header", "expected"),
    [
        (METADATA, None, METADATA[0]),
        (METADATA, "foo/bar, application/dicom+json", METADATA[0]),
        (METADATA, "*/*", METADATA[0]),
        (METADATA, "application/dicom+xml;q=0.9, application/dicom+json;q=0.1", METADATA[2]),
        (METADATA, "application/dicom+xml;q=0.1, application/dicom+json;q=0.9", METADATA[0]),
        (METADATA, 'multipart/related; type="application/dicom+xml"', METADATA[1]),
        (METADATA, "Application/DICOM+JSON", METADATA[0]),
        (METADATA, "application/dicom+json, application/json", METADATA[0]),
        (METADATA, "application/json", METADATA[0]),
        (METADATA, "application/*", METADATA[0]),
        (METADATA, "text/html, */*;q=0.8, application/dicom+json;q=0", METADATA[1]),
        (RENDERED, "*/*;q=0.1, image/png", RENDERED[1]),
        (RENDERED, "*/*", RENDERED[0]),
        (METADATA, "", METADATA[0]),
        (METADATA, " ,, ", METADATA[0]),
        (RENDERED, "image/*", RENDERED[0]),
        (RENDERED, "image/png, image/jpeg", RENDERED[1]),
        (RENDERED, "image/png, */*", RENDERED[1]),
        (INSTANCE, "*/*", INSTANCE[0]),
        (INSTANCE, "multipart/related; type=application/dicom", INSTANCE[0]),
        (INSTANCE, 'multipart/related ;  type="application/dicom"', INSTANCE[0]),
        (INSTANCE, "multipart/related", INSTANCE[0]),
        (INSTANCE, "application/dicom", INSTANCE[2]),
        (INSTANCE, "application/dicom; transfer-syntax=*", INSTANCE[3]),
        (INSTANCE, f'multipart/related; type="application/dicom"; transfer-syntax="{JPEG_2000}"', INSTANCE[1]),
        (INSTANCE, f"multipart/related; TYPE=application/dicom; Transfer-Syntax={EXPLICIT_LE}", INSTANCE[0]),
        (FRAMES, 'multipart/related; type="*/*"', FRAMES[0]),
        (FRAMES, "*/*", FRAMES[0]),
        (FRAMES, "multipart/related; type=application/octet-stream; transfer-syntax=*", FRAMES[1]),
        (FRAMES, "multipart/related; type=application/octet-stream", FRAMES[0]),
        (FRAMES, "multipart/related; type=image/jp2", FRAMES[1]),
        (FRAMES, "multipart/related; type=image/*", FRAMES[1]),
    ],
)
def test_header_gets_the_best_offer(offers: tuple[Offer, ...], header: str | None, expected: Offer) -> None:
    assert negotiate(offers, header) == expected


@pytest.mark.parametrize(
    ("offers", "header"),
    [
        (METADATA, "image/jpeg"),
        (METADATA, "application/dicom+json;q=0"),
        (METADATA, "nonsense"),
        (METADATA, "*/*;q=0"),
        (RENDERED, "application/dicom+json"),
        (INSTANCE, "multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2"),
        (INSTANCE, "multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.2"),
        (INSTANCE, "multipart/related; type=application/dicom; transfer-syntax=1.2.3"),
        (INSTANCE, "multipart/related; type=application/octet-stream"),
        (FRAMES, "application/octet-stream"),
        (FRAMES, "multipart/related; type=image/jls"),
        ((), "*/*"),
    ],
)
def test_nothing_acceptable(offers: tuple[Offer, ...], header: str) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(offers, header)


@pytest.mark.parametrize(
    ("offers", "parameters", "header", "expected"),
    [
        (METADATA, ["application/dicom+json"], DICOM_XML, METADATA[0]),
        (METADATA, ["application/dicom json"], DICOM_XML, METADATA[0]),
        (METADATA, ["image/foo"], DICOM_JSON, METADATA[0]),
        ((*RENDERED, MODEL), ["model/x3d xml"], "image/jpeg", MODEL),
        (RENDERED, ["image/png,image/jpeg;q=0.5"], "image/jpeg", RENDERED[1]),
        (RENDERED, ["image/gif", "image/png"], None, RENDERED[1]),
    ],
)
def test_accept_parameter_comes_first(
    offers: tuple[Offer, ...], parameters: list[str], header: str | None, expected: Offer
) -> None:
    assert negotiate(offers, header, parameters) == expected


def test_accept_parameter_alone_that_fits_nothing_is_not_acceptable() -> None:
    with pytest.raises(NotAcceptable):
        negotiate(METADATA, None, ["image/foo"])


def test_quoted_and_escaped_parameters() -> None:
    assert parse('Multipart/Related; Type="a\\"b;c,d" ; boundary=x_1') == (
        "multipart/related",
        {"type": 'a"b;c,d', "boundary": "x_1"},
    )
    assert [r.media_type for r in ranges('multipart/related; type="a/b,c", image/png')] == ["image/png"]
    for text in ("", "text", "/", "a/b;=c", "a/b c"):
        with pytest.raises(InvalidInput):
            parse(text)


@given(st.text(max_size=200))
def test_any_text_is_answered_in_time(text: str) -> None:
    for each in ranges(text):
        assert 0 <= each.q <= 1


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (None, False), ("", False), ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("*", True),
        ("gzip;q=0, *", False), ("GZIP", True), ("br", False), ("gzip;q=x", False),
    ],
)  # fmt: skip
def test_gzip_only_where_the_client_takes_it(header: str | None, allowed: bool) -> None:
    assert accepts_gzip(header) is allowed
