"""The JSON API and its document: every route that is mounted stands in it, it is valid, and answers are as it says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from conftest import RunningServer
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from pacs.auth import Principal, Right
from pacs.errors import Forbidden, InvalidInput, NotFound, TooLarge
from pacs.json_api import BODY_BYTES, Asked, Body, Field, Row
from pacs.server import openapi
from pacs.server.api_mount import mount

ANN = Principal("ann", "token", frozenset({Right.QUERY}))


@pytest.fixture(scope="module")
def document(running_server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{running_server.http}/api/openapi.json").raise_for_status().json()
    return found


def known_to(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.http, headers={"Authorization": "Bearer " + server.token}, timeout=60)


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": document["components"]}


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names) >= 25
    assert all(each["summary"].endswith(".") for each in operations)


def test_what_is_not_possible_is_said_as_a_problem(running_server: RunningServer) -> None:
    with known_to(running_server) as known:
        answer = known.request("DELETE", "/api/batches")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


def test_every_operation_is_mounted_and_wants_a_login(running_server: RunningServer, document: dict[str, Any]) -> None:
    """Without a credential a known operation is refused (401) or open; with one it is not "nothing at this address"."""
    with known_to(running_server) as known, httpx.Client(base_url=running_server.http, timeout=60) as stranger:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                address = re.sub(r"{(id|\w+)}", lambda m: "999999" if m[1] == "id" else "1.2.3", path)
                if address == "/api/events":
                    continue  # never ends; the next test reads it
                refused = stranger.request(method.upper(), address)
                is_open = operation.get("security") == []
                assert (refused.status_code != 401) == is_open or path == "/api/login", (method, path)
                # A body that no operation takes: nothing is changed by asking.
                body = {"content": b"[]"} if "requestBody" in operation else {}
                answer = known.request(method.upper(), address, **body)
                assert answer.status_code != 405, (method, path)
                if answer.status_code == 404:
                    assert answer.json()["detail"] != "there is nothing at this address", (method, path)
                assert str(answer.status_code) in operation["responses"], (
                    method,
                    path,
                    answer.status_code,
                    answer.text,
                )


def test_answers_are_what_the_document_says(running_server: RunningServer, document: dict[str, Any]) -> None:
    checked = 0
    with known_to(running_server) as http:
        for path, methods in document["paths"].items():
            if "get" not in methods or "{" in path or path == "/api/events":
                continue
            required = any(each.get("required") for each in methods["get"]["parameters"])
            if required:
                continue
            answer = http.get(path)
            assert answer.status_code == 200, (path, answer.text)
            media_type = answer.headers["content-type"].partition(";")[0]
            content = methods["get"]["responses"]["200"]["content"][media_type]
            if media_type == "application/json":
                Draft202012Validator(resolved(content["schema"], document)).validate(answer.json())
                checked += 1
        with http.stream("GET", "/api/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
    assert checked >= 8


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_needs_no_script_and_nobody_else(running_server: RunningServer, document: dict[str, Any]) -> None:
    answer = httpx.get(f"{running_server.http}/api")
    assert answer.headers["content-type"].startswith("text/html")
    page = _Page()
    page.feed(answer.text)
    assert "script" not in page.tags
    assert page.addresses
    for address in page.addresses:
        assert address == openapi.DOCUMENT or address.removeprefix("#") in page.ids
    for path in document["paths"]:
        assert f"<code>{path}</code>" in answer.text


# The table itself ----------------------------------------------------------------------------------------------------


class Wanted(Body):
    """A number of something."""

    number: int


class Told(BaseModel):
    """What came of it."""

    twice: int


def row(**more: Any) -> Row:
    return Row("POST", "/api/x/{id}", lambda asked: Told(twice=2 * asked.body.number), "Doubles.", "tasks",
               right=Right.QUERY, body=Wanted, answer=Told, **more)  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"{}", "number: Field required"),
        (b'{"number": "secret"}', "number: Input should be a valid integer"),
        (b'{"number": 1, "numbr": 2}', "numbr: Extra inputs are not permitted"),
        (b'{"number": [{"a": "\\u0000"}]}', "a character NUL"),
        (b'{"\\u0000": 1}', "a character NUL"),
    ],
)
def test_a_wrong_body_is_refused_in_words(raw: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        row().call(ANN, {"id": "1"}, {}, raw)
    assert words in refused.value.reason
    assert "secret" not in refused.value.reason


def test_rights_sizes_and_parameters_are_checked_first() -> None:
    nobody = Principal("bob", "token", frozenset())
    with pytest.raises(Forbidden):
        row().call(nobody, {"id": "1"}, {}, b"{")
    with pytest.raises(TooLarge):
        row().call(ANN, {"id": "1"}, {}, b" " * (BODY_BYTES + 1))
    with pytest.raises(InvalidInput, match="unknown query parameter 'stat'"):
        row().call(ANN, {"id": "1"}, {"stat": "x"}, b'{"number": 1}')
    chosen = (Field("state", "Only these.", {"type": "string", "enum": ["a", "b"]}, required=True),)
    with pytest.raises(InvalidInput, match='"state" is one of a, b'):
        row(query=chosen).call(ANN, {"id": "1"}, {"state": "c"}, b'{"number": 1}')
    with pytest.raises(InvalidInput, match="is needed"):
        row(query=chosen).call(ANN, {"id": "1"}, {}, b'{"number": 1}')
    with pytest.raises(InvalidInput, match='"name" has a character NUL'):  # which PostgreSQL cannot be asked for
        row(query=(Field("name", "A name."),)).call(ANN, {"id": "1"}, {"name": "a\0"}, b'{"number": 1}')
    with pytest.raises(NotFound):
        row().call(ANN, {"id": "\0"}, {}, b'{"number": 1}')
    assert row().call(ANN, {"id": "1"}, {}, b'{"number": 4}') == Told(twice=8)
    with pytest.raises(NotFound):
        Asked(ANN, {"id": "x1"}).number()


def test_a_row_describes_itself() -> None:
    made = openapi.document([row()])
    operation = made["paths"]["/api/x/{id}"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Wanted"}
    assert made["components"]["schemas"]["Told"]["properties"]["twice"]["type"] == "integer"
    assert {"200", "400", "401", "403", "404", "413"} <= operation["responses"].keys()
    assert list(OpenAPIV31SpecValidator(made).iter_errors()) == []
    with pytest.raises(AssertionError, match="twice in the table"):
        mount([row(), row()])


def test_two_models_of_one_name_are_noticed() -> None:
    class Told(BaseModel):
        other: str

    other = Row("GET", "/api/y", lambda _: None, "Other.", "tasks", answer=Told)
    with pytest.raises(ValueError, match="called Told"):
        openapi.document([row(), other])
    assert json.dumps(openapi.document([row()]))
