"""Owns the shape of the JSON API (what is not DICOM over HTTP): a row for each method of each resource, and its call.

A row is read by the server, which mounts it, and by the OpenAPI document, so that neither can say what the other does
not do. Rows know no HTTP library and no status codes of failures: handlers raise the errors of `pacs.errors`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pacs.auth import Principal, Right
from pacs.errors import InvalidInput, NotFound, TooLarge

PREFIX = "/api"
BODY_BYTES = 1 << 20
MAX_ID_DIGITS = 18
JSON = "application/json"

Schema = Mapping[str, Any]
"""A JSON Schema, in the dialect of OpenAPI 3.1 (2020-12)."""

TEXT: Schema = {"type": "string"}
UID: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)+$", "maxLength": 64}
NUMBER: Schema = {"type": "integer", "minimum": 0}


class Body(BaseModel):
    """A request's body: subclass with typed fields; a member that is unknown is refused by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Field:
    """A query parameter, or a part of the path."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: TEXT)
    required: bool = False


@dataclass(frozen=True)
class Asked:
    """One request. `body` is the model that the row names, validated, or the JSON object as it came."""

    principal: Principal
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    def number(self, name: str = "id") -> int:
        """A part of the path that is a number. Raises NotFound where it is none."""
        text = self.path[name]
        if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS):
            raise NotFound("no such number", about=text[:MAX_ID_DIGITS] if text.isprintable() else "")
        return int(text)

    def count(self, name: str, default: int, most: int) -> int:
        """A query parameter that is a number from 0 to `most`. Raises InvalidInput."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS and int(text) <= most):
            raise InvalidInput(f'"{name}" is a number from 0 to {most}')
        return int(text)


@dataclass(frozen=True)
class Reply:
    """An answer that is no JSON."""

    content: bytes
    media_type: str
    filename: str = ""


Handler = Callable[[Asked], object]
"""From what is asked to JSON values, a model, a Reply or None (nothing to say). Blocking; raises ArchiveError."""

Answer = type[BaseModel] | Any
"""A model, `list[Model]`, or a JSON Schema; None = an answer without a body."""


@dataclass(frozen=True)
class Row:
    """One method of one resource of the JSON API, and all that its readers may know of it.

    `path` is absolute, its variable parts in braces. `summary` is one sentence, `description` what else there is to
    say (Markdown). Who asks needs `right`. `status` is that of success; 204 where `answer` is None. `body` is a model
    (validated before the handler runs), a JSON Schema (the handler judges) or None. `errors` are status codes that the
    row can end with besides 400, 401, 403 and 503. `endpoint` is a Starlette endpoint for what the handler cannot do:
    streams and cookies; it then takes the request as it came.
    """

    method: str
    path: str
    handler: Handler | None
    summary: str
    tag: str
    right: Right | None = None
    query: tuple[Field, ...] = ()
    body: type[BaseModel] | Schema | None = None
    answer: Answer = None
    status: int = 200
    description: str = ""
    errors: tuple[int, ...] = ()
    media_type: str = JSON
    also: tuple[str, ...] = ()  # media types that a query parameter chooses instead
    endpoint: Any = None
    open: bool = False  # to everybody, without a login

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the variable parts of its path."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    def call(self, principal: Principal, path: Mapping[str, str], query: Mapping[str, str], raw: bytes) -> object:
        """What the handler says. Raises Forbidden, InvalidInput, TooLarge and what the handler raises."""
        assert self.handler is not None
        if self.right is not None:
            principal.require(self.right)
        unknown = query.keys() - {each.name for each in self.query}
        if unknown:
            raise InvalidInput(f"unknown query parameter {min(unknown)[:40]!r}")
        for each in self.query:
            _check(each, query.get(each.name))
        if _has_nul(list(path.values())):
            raise NotFound("nothing has such a name")
        return self.handler(Asked(principal, path, query, self._read(raw)))

    def _read(self, raw: bytes) -> Any:
        if self.body is None:
            return None
        if len(raw) > BODY_BYTES:
            raise TooLarge(f"more than {BODY_BYTES} bytes")
        try:
            given = orjson.loads(raw) if raw.strip() else {}
        except ValueError:
            raise InvalidInput("the body is no JSON") from None
        if not isinstance(given, dict):
            raise InvalidInput("the body is no JSON object")
        if _has_nul(given):
            raise InvalidInput("the body has a character NUL")
        if isinstance(self.body, Mapping):
            return given
        try:
            return self.body.model_validate(given)
        except ValidationError as error:
            raise InvalidInput(in_words(error)) from None


def in_words(error: ValidationError) -> str:
    """What a model refuses, member by member, without the values that were given."""
    faults = ("".join(f"{'.' if n else ''}{part}" for n, part in enumerate(e["loc"])) + f": {e['msg']}"
              for e in error.errors(include_input=False, include_url=False))  # fmt: skip
    return "; ".join(faults)


def _has_nul(value: Any) -> bool:
    """Whether a text in it has the one character that no text of PostgreSQL, and no value of DICOM, can have."""
    if isinstance(value, Mapping):
        return _has_nul(list(value)) or _has_nul(list(value.values()))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _check(wanted: Field, given: str | None) -> None:
    if given is None:
        if wanted.required:
            raise InvalidInput(f'the query parameter "{wanted.name}" is needed')
        return
    if _has_nul(given):
        raise InvalidInput(f'"{wanted.name}" has a character NUL')
    among = wanted.schema.get("enum")
    if among is not None and given not in among:
        raise InvalidInput(f'"{wanted.name}" is one of {", ".join(map(str, among))}')


def answer_schema(answer: Answer) -> dict[str, Any]:
    """The JSON Schema of what a row answers; definitions of models stand under "$defs"."""
    if isinstance(answer, Mapping):
        return dict(answer)
    if isinstance(answer, type) and get_origin(answer) is None and issubclass(answer, BaseModel):
        return answer.model_json_schema(mode="serialization")
    return TypeAdapter(answer).json_schema(mode="serialization")
