"""The Capabilities transaction (PS3.18 8.9 and annex H) and cross-origin requests: part B."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

from conformance.check import Level, NotSupported, check
from conformance.client import Answer, xml
from conformance.context import Context
from conformance.wadl import NAMESPACE
from conformance.wadl import faults as wadl_faults

SERVICE = "capabilities"
WADL = "application/vnd.sun.wadl+xml"


def described(c: Context) -> Element:
    """The Capabilities Description as WADL. Raises NotSupported where there is none."""
    answer = c.web.request("OPTIONS", "/", accept=WADL)
    if answer.status != 200 or b"application" not in answer.body:
        raise NotSupported(f"OPTIONS / gives {answer.status} and no description")
    return xml(answer.body)


def resources(root: Element) -> dict[str, set[str]]:
    """Each resource's path below the base, with its methods; those that open a WebSocket are left out."""
    found: dict[str, set[str]] = {}

    def walk(node: Element, path: str) -> None:
        for child in node.findall(f"{NAMESPACE}resource"):
            here = f"{path.rstrip('/')}/{child.get('path', '').strip('/')}".rstrip("/") or "/"
            plain = [method for method in child.findall(f"{NAMESPACE}method") if not _upgrades(method)]
            found.setdefault(here, set()).update(method.get("name", "") for method in plain)
            walk(child, here)

    for top in root.findall(f"{NAMESPACE}resources"):
        walk(top, "")
    return found


def _upgrades(method: Element) -> bool:
    return any(param.get("name", "").lower() == "upgrade" for param in method.iter(f"{NAMESPACE}param"))


@check("B08", "PS3.18 8.9", "OPTIONS / gives a Capabilities Description as WADL", service=SERVICE)
def wadl(c: Context) -> None:
    answer = c.web.request("OPTIONS", "/", accept=WADL)
    if not c.expect_status(answer, 200):
        return
    c.expect("Content-Type application/vnd.sun.wadl+xml or XML", answer.type in (WADL, "application/xml", "text/xml"),
             about=answer)  # fmt: skip
    try:
        root = xml(answer.body)
    except ValueError as error:
        c.expect("well-formed XML", False, error, about=answer)
        return
    c.expect_equal("root element (annex H)", root.tag, f"{NAMESPACE}application", about=answer)
    c.expect("a resources element with a base", root.find(f"{NAMESPACE}resources") is not None, about=answer)


@check("B08s", "PS3.18 H", "the description keeps to the schema of WADL", service=SERVICE)
def schema(c: Context) -> None:
    broken = list(wadl_faults(described(c)))
    c.expect("no rule of the language broken", not broken, "; ".join(broken[:10]), about="OPTIONS /")


@check("B09", "PS3.18 8.9", "OPTIONS / as JSON: a description, or 406", service=SERVICE)
def json(c: Context) -> None:
    answer = c.web.request("OPTIONS", "/", accept="application/json")
    if c.expect_status(answer, 200, 406) and answer.status == 200:
        try:
            c.expect("a JSON object", isinstance(answer.json(), dict), about=answer)
        except ValueError as error:
            c.expect("JSON (RFC 8259)", False, error, about=answer)


@check("B10", "PS3.18 H.1", "the description names the resources that answer, with their methods", service=SERVICE)
def complete(c: Context) -> None:
    sample = c.sample("images", "ct")
    found = resources(described(c))
    shapes = [re.sub(r"\{[^}]*\}", "{}", path) for path in found]
    for path in ("/studies", "/studies/{}/series", sample.path + "/metadata"):
        shape = re.sub(r"[0-9]+(?:\.[0-9]+)+", "{}", path)
        c.expect(f"a resource {shape}", any(each.endswith(shape) for each in shapes), sorted(found)[:60],
                 about="OPTIONS /")  # fmt: skip
    search = next((methods for path, methods in found.items() if path.endswith("/studies")), set())
    c.expect("GET and POST of /studies", search >= {"GET", "POST"}, search, about="OPTIONS /")


@check("B10m", "PS3.18 H.1", "no resource that the description names is unknown to the server", service=SERVICE)
def true(c: Context) -> None:
    sample = c.sample("images", "ct")
    known = {"study": sample.study, "series": sample.series, "instance": sample.instance, "frame": "1"}
    tried = 0
    for path, methods in resources(described(c)).items():
        names = re.findall(r"\{([^}]*)\}", path)
        filled = path
        for name in names:
            value = next((value for key, value in known.items() if key in name.lower()), None)
            filled = filled.replace(f"{{{name}}}", value) if value else filled
        if "GET" not in methods or "{" in filled:
            continue
        tried += 1
        answer = c.web.request("GET", filled, "limit=1", accept="*/*")
        c.expect("not 405, 501 or a server error", answer.status not in (405, 500, 501), about=answer)
        unknown = answer.status == 404 and not names
        c.expect("not 404 for a resource without parameters", not unknown, about=answer)
    c.expect("some resources with GET", tried, about="OPTIONS /")


@check("B11", "PS3.18 8.9", "options of matching that the description claims are not warned about", service=SERVICE)
def claims(c: Context) -> None:
    root = described(c)
    for option in ("fuzzymatching", "emptyvaluematching", "multiplevaluematching"):
        claimed = any(param.get("name") == option for param in root.iter(f"{NAMESPACE}param"))
        c.stored("query")
        answer = c.web.get("/studies", f"AccessionNumber={c.maker.accession}&{option}=true")
        warned = option in answer.header("Warning")
        c.expect(f"{option} is {'claimed' if claimed else 'not claimed'}, and so it behaves", warned is not claimed,
                 about=answer)  # fmt: skip


def preflight(c: Context, **headers: str) -> Answer:
    """The answer to a preflight request for the metadata of an instance."""
    sent = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return c.web.request("OPTIONS", c.sample("images", "ct").path + "/metadata", accept="*/*", headers=sent)


@check("B12", "Fetch (CORS) 3.2", "a preflight request is answered with CORS headers, or none at all", Level.PRACTICE,
       service=SERVICE)  # fmt: skip
def cors(c: Context) -> None:
    answer = preflight(c)
    allowed = answer.header("Access-Control-Allow-Origin")
    if not allowed:
        raise NotSupported(f"no Access-Control-Allow-Origin for a foreign origin (status {answer.status})")
    c.expect_status(answer, 200, 204)
    c.expect("the origin, or *", allowed in ("*", "https://viewer.example"), allowed, about=answer)
    methods = answer.header("Access-Control-Allow-Methods")
    c.expect("Access-Control-Allow-Methods with GET, or *", "GET" in methods or "*" in methods, methods, about=answer)
