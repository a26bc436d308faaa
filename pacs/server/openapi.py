"""The document of the JSON API (OpenAPI 3.1.0) and a page to read it, both made from the rows that are mounted."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pacs.json_api import Row, answer_schema

DOCUMENT = "/api/openapi.json"
PAGE = "/api"
TAGS = {
    "documents": "What this interface is.",
    "session": "Who asks: login of the viewer, and the stream of what happens.",
    "plug-ins": "What can be computed, with which parameters.",
    "tasks": "What is beside the Workitems of UPS-RS.",
    "batches": "One plug-in over many studies, with a report at the end.",
    "results": "What was computed, and what of it was kept aside.",
    "provenance": "Where results come from: plug-in, parameters, inputs, Workitem.",
    "verdicts": "What readers say of findings, and how often a plug-in is right.",
    "deliveries": "What is sent on to other systems.",
    "corrections": "For administrators: quarantine, versions, rejections, corrections, retention.",
}
_WORDS = {
    400: "What was asked is wrong in itself; `detail` says how.",
    401: "Nobody we know.",
    403: "Somebody without the right for this.",
    404: "Nothing of that name is here, or nothing that you may see.",
    409: "Right in itself, but not with what is here.",
    413: "Too large.",
    503: "A part that is needed cannot be reached now; asking again later may work.",
}
_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "about": {"type": "string"},
    },
    "required": ["title", "status", "detail"],
}


def rows(described: Sequence[Row]) -> list[Row]:
    """The rows of the document and the page themselves, added to those that they describe."""

    @cache
    def made() -> dict[str, Any]:  # when first asked for: a start has no time for it
        return document([*own, *described])

    async def page(_: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(lambda: readable(made())), media_type="text/html; charset=utf-8")

    async def whole(_: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(made))

    own = [
        Row("GET", PAGE, None, "This interface, to read.", "documents", endpoint=page, open=True,
            answer={"type": "string"}, media_type="text/html"),
        Row("GET", DOCUMENT, None, "This interface as an OpenAPI document.", "documents", endpoint=whole, open=True,
            answer={"type": "object"}),
    ]  # fmt: skip
    return [*own, *described]


def document(table: Sequence[Row]) -> dict[str, Any]:
    """The table as OpenAPI 3.1.0. Raises ValueError where two models of one name differ."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    tags = TAGS | {row.tag: "" for row in table if row.tag not in TAGS}
    for row in sorted(table, key=lambda each: (list(tags).index(each.tag), each.path, each.method)):
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, schemas)
    used = {row.tag for row in table}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "m3DICOM: what is not DICOM",
            "version": version("m3dicom"),
            "description": "Images, queries and tasks are DICOMweb (PS3.18) under /dicom-web. This is the rest.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"session": []}],
        "tags": [{"name": name, "description": words} for name, words in tags.items() if name in used],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`m3dicom token create --name NAME`"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "m3dicom_session",
                    "description": "The viewer's login.",
                },
            },
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _operation(row: Row, schemas: dict[str, Any]) -> dict[str, Any]:
    said = [row.description] if row.description else []
    if row.right is not None:
        said.append(f"Needs the right `{row.right.value}`.")
    made: dict[str, Any] = {
        "operationId": "_".join([row.method.lower(), *re.findall(r"\w+", row.path.removeprefix("/api"))]) or "get",
        "summary": row.summary,
        "tags": [row.tag],
        "parameters": [*_path_parameters(row), *_query_parameters(row)],
        "responses": dict(_responses(row, schemas)),
    }
    if said:
        made["description"] = "\n\n".join(said)
    if row.body is not None:
        schema = _hoisted(answer_schema(row.body), schemas)
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if row.open:
        made["security"] = []
    return made


def _path_parameters(row: Row) -> Iterator[dict[str, Any]]:
    for name in row.parts:
        number = name == "id"
        schema = {"type": "integer", "minimum": 0} if number else {"type": "string"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(row: Row) -> Iterator[dict[str, Any]]:
    for each in row.query:
        described = {"name": each.name, "in": "query", "description": each.description, "schema": dict(each.schema)}
        yield described | ({"required": True} if each.required else {})


def _responses(row: Row, schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if row.answer is None:
        yield "204", {"description": "Done; nothing to say."}
    else:
        content = {row.media_type: {"schema": _hoisted(answer_schema(row.answer), schemas)}}
        content |= {media_type: {"schema": {"type": "string"}} for media_type in row.also}
        yield str(row.status), {"description": row.summary, "content": content}
    codes = {*row.errors} if row.open else {400, 401, 403, 503, *row.errors}
    if row.parts:
        codes.add(404)
    if row.body is not None and not row.open:
        codes.add(413)
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for code in sorted(codes):
        yield str(code), {"description": _WORDS[code], "content": problem}


def _hoisted(schema: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema with its definitions moved to the components, and itself too where it is a model with a name."""
    own = dict(schema)
    definitions = own.pop("$defs", {})
    if own.get("type") == "object" and "title" in own and "properties" in own:
        definitions = {**definitions, own["title"]: own}
        own = {"$ref": f"#/components/schemas/{own['title']}"}
    for name, found in definitions.items():
        moved = _moved(found)
        if schemas.setdefault(name, moved) != moved:
            raise ValueError(f"two models of the JSON API are called {name}")
    result: dict[str, Any] = _moved(own)
    return result


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: each.replace("#/$defs/", "#/components/schemas/") if name == "$ref" else _moved(each)
            for name, each in value.items()
        }
    return [_moved(each) for each in value] if isinstance(value, list) else value


# The page ------------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem }
body { color: #1a1f24; background: #fff }
h1 { font-size: 1.6rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccd }
details { border: 1px solid #ccd; border-radius: 6px; margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary code { font-weight: 600 } summary span { color: #475 }
.method { display: inline-block; min-width: 4.2em; font: 600 .8rem ui-monospace, monospace; color: #0b5cad }
pre { background: #f3f5f8; padding: .7rem; overflow: auto; font-size: .85rem }
code { font-family: ui-monospace, monospace }
table { border-collapse: collapse } td { border-top: 1px solid #dde; padding: .2rem .8rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { color: #dde3ea; background: #14181d } details, h2, td { border-color: #38424d } pre { background: #1d232a }
  summary span { color: #9ab } .method, a { color: #7db8f5 }
}
"""


def readable(made: Mapping[str, Any]) -> str:
    """The document as one HTML page, without any script."""
    out = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{_text(made['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{_text(made['info']['title'])}</h1><p>{_text(made['info']['description'])}",
        "<p>A request carries <code>Authorization: Bearer TOKEN</code> (<code>m3dicom token create --name",
        " NAME</code>) or the session of the viewer. Refusals are <code>application/problem+json</code>. For programs:",
        f" <a href='{DOCUMENT}'>openapi.json</a> (OpenAPI {made['openapi']}).",
    ]
    for tag in made["tags"]:
        out.append(f"<h2>{_text(tag['name'].capitalize())}</h2><p>{_text(tag['description'])}")
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    out.extend(_described(path, method, operation))
    out.append("<h2>Models</h2>")
    for name, schema in made["components"]["schemas"].items():
        out.append(
            f"<details id='{_text(name)}'><summary><code>{_text(name)}</code></summary>{_json(schema)}</details>"
        )
    return "\n".join(out) + "</html>"


def _described(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<details><summary><b class=method>{method.upper()}</b> <code>{_text(path)}</code> "
    yield f"<span>{_text(operation['summary'])}</span></summary>"
    if "description" in operation:
        yield "".join(f"<p>{_text(part)}" for part in operation["description"].split("\n\n"))
    if operation["parameters"]:
        yield "<table>"
        for each in operation["parameters"]:
            where = " (path)" if each["in"] == "path" else ""
            kind = ", ".join(map(str, each["schema"].get("enum", [each["schema"].get("type", "")])))
            said = _text(each.get("description", ""))
            yield f"<tr><td><code>{_text(each['name'])}</code>{where}<td>{_text(kind)}<td>{said}"
        yield "</table>"
    if "requestBody" in operation:
        yield f"<h4>Body</h4>{_json(operation['requestBody']['content']['application/json']['schema'])}"
    yield "<table>"
    for code, answer in operation["responses"].items():
        shown = next(iter(answer.get("content", {}).items()), None)
        schema = "" if shown is None or int(code) >= 400 else f"<br>{_text(shown[0])}{_json(shown[1]['schema'])}"
        yield f"<tr><td>{code}<td>{_text(answer['description'])}{schema}"
    yield "</table></details>"


def _json(schema: Mapping[str, Any]) -> str:
    text = _text(json.dumps(schema, indent=1))
    linked = re.sub(r"#/components/schemas/(\w+)", r"<a href='#\1'>\1</a>", text)
    return f"<pre>{linked}</pre>"


def _text(words: object) -> str:
    return html.escape(str(words))
