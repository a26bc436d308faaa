"""The web services part of the conformance statement: resources, parameters, media types and status codes."""

from __future__ import annotations

from http import HTTPStatus

from dicomweb import errors, parameters, routes
from dicomweb.app import DEFAULT_ROOT
from pacs.auth import Right
from pacs.server.markdown import table

USED = ("STOW-RS",)
"""Services that we are a user agent of: results and studies are sent on."""


def rights() -> tuple[Right, ...]:
    """What a caller may be allowed to do."""
    return tuple(Right)


def services() -> list[str]:
    """The services in the order of their sections."""
    found: dict[str, str] = {}
    for row in routes.TABLE:
        found.setdefault(row.service, row.section)
    return sorted(found, key=lambda name: _order(found[name]))


def _order(section: str) -> tuple[int, ...]:
    head = section.split(",")[0]
    return tuple(int(part) for part in head.split(".")) if head[:1].isdigit() else (99,)


def _sections(service: str) -> str:
    found = {row.section for row in routes.TABLE if row.service == service}
    return ", ".join(sorted(found, key=_order))


def overview() -> list[tuple[str, str, str, str]]:
    """Service, sections of PS3.18, and whether it is used and provided."""
    rows = [(name, _sections(name), "yes" if name in USED else "no", "yes") for name in services()]
    return [("Capabilities", "8.9", "no", "yes"), *rows]


def section() -> list[str]:
    """Section 5 of the statement."""
    lines = [
        "## 5 Web services",
        "",
        f"Addresses are below the root of the service, `{DEFAULT_ROOT}` by default. `OPTIONS` on any of them gives",
        "the Capabilities",
        "Description (8.9) in WADL and JSON, made from the same table as this section. `HEAD` works wherever `GET`",
        "does. A request without",
        "an Accept header gets the default media type, the first of each list (the standard would allow 406).",
        "",
    ]
    for number, service in enumerate(services(), 1):
        lines += [f"### 5.{number} {service}", "", *_resources(service)]
    number = len(services())
    return [
        *lines,
        f"### 5.{number + 1} Notifications",
        "",
        *table(
            ("WebSocket address", "PS3.18", "what"),
            [(f"`{socket.path}`", socket.section, socket.transaction) for socket in routes.SOCKETS],
        ),
        f"### 5.{number + 2} Query parameters",
        "",
        *table(
            ("parameter", "type", "PS3.18", "meaning"),
            [
                (f"`{row.name}`", row.type, row.section, row.doc + (f": {', '.join(row.values)}" if row.values else ""))
                for row in parameters.TABLE.values()
            ],
        ),
        f"### 5.{number + 3} Status codes",
        "",
        "Errors carry a short report in `application/problem+json`, without patient data. Success is 200, 201",
        "(created), 202 (accepted, or some",
        "instances not stored), 204 (no match), 206 (a byte range; or several instances, values or pictures without",
        "those that are damaged or cannot be decoded, which a Warning names), 304 (If-None-Match), 101 (a WebSocket).",
        "",
        *table(("code", "when"), _codes()),
        "Failure Reason (0008,1197) of an instance that STOW-RS does not store:",
        "",
        *table(
            ("reason", "when"),
            [
                (f"{code:04X}H", (kind.__doc__ or "").partition("\n")[0].rstrip("."))
                for kind, code in errors.REASONS.items()
            ],
        ),
    ]


def _codes() -> list[tuple[str, str]]:
    """Each status code of `dicomweb.errors.STATUS` with what it says here."""
    found: dict[int, list[str]] = {}
    for kind, code in errors.STATUS.items():
        found.setdefault(code, []).append((kind.__doc__ or "").partition("\n")[0].rstrip("."))
    found[405] = ["A method that the resource does not have; `Allow` names those that it has"]
    return [(f"{code} {HTTPStatus(code).phrase}", "; ".join(whys)) for code, whys in sorted(found.items())]


def _resources(service: str) -> list[str]:
    rows = [row for row in routes.TABLE if row.service == service]
    return table(
        ("transaction", "method and resource", "PS3.18", "right", "takes", "answers in", "parameters"),
        [
            (
                row.transaction,
                f"`{row.method} {row.path.replace(':path', '')}`",
                row.section,
                row.right.value,
                _types(row.payloads),
                _types(row.media_types),
                ", ".join(f"`{name}`" for name in row.parameters),
            )
            for row in rows
        ],
    )


def _types(types: tuple[str, ...]) -> str:
    return ", ".join(f"`{each}`" for each in types)
