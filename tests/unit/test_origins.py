"""Origins that no browser sends: refused in words, never a failure of the server."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from dicomweb import cors
from pacs.errors import InvalidInput
from pacs.server import http

NO_ORIGINS = ("http://[", "http://", "null", "viewer.example", "https://viewer.example/", "ftp://viewer.example")


@pytest.mark.parametrize("text", NO_ORIGINS)
def test_a_setting_that_is_no_origin_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="cors_origins"):
        cors.checked([text])


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_a_cookie_needs_the_origin_of_the_server(origin: str) -> None:
    assert not http.from_same_origin(Headers({"origin": origin, "host": "pacs.example"}))


def test_the_server_s_own_pages() -> None:
    assert http.from_same_origin(Headers({"origin": "http://pacs.example", "host": "pacs.example"}))
    assert cors.checked(["https://Viewer.example", "*"]) == {"https://viewer.example", "*"}
