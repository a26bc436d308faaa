"""Media types: which representation comes back, and when none can (PS3.18 8.7): part A, for text and renderings."""

from __future__ import annotations

from conformance.check import Level, NotSupported, check
from conformance.client import JSON, XML, Answer
from conformance.context import Context

SERVICE = "negotiation"


def metadata(c: Context, accept: str | None, query: str = "", **headers: str) -> Answer:
    """The answer for one instance's metadata."""
    return c.web.get(c.sample("images", "ct").path + "/metadata", query, accept=accept, **headers)


def rendered(c: Context, accept: str, query: str = "") -> Answer:
    """The answer for one instance rendered. Raises NotSupported where the server renders nothing at all."""

    def renders() -> bool:
        answer = c.web.get(c.sample("images", "ct").path + "/rendered", accept="image/jpeg")
        return answer.status not in (404, 405, 501)

    if not c.fact("renders", renders):
        raise NotSupported("GET …/rendered is not there (404, 405 or 501)")
    return c.web.get(c.sample("images", "ct").path + "/rendered", query, accept=accept)


def expect_type(c: Context, answer: Answer, *types: str) -> None:
    """Judge that it is 200 in one of these media types."""
    if c.expect_status(answer, 200):
        c.expect("Content-Type " + " or ".join(types), answer.type in types, about=answer)


@check("A01", "PS3.18 8.7.7", "without an Accept header: the default, or 406", Level.CONDITIONAL, service=SERVICE,
       edition="2019e")  # fmt: skip
def no_accept(c: Context) -> None:
    for path in ("/studies?limit=1", c.sample("images", "ct").path + "/metadata"):
        answer = c.web.get(path, accept=None)
        if c.expect_status(answer, 200, 406) and answer.status == 200:
            c.expect_equal("Content-Type", answer.type, JSON, about=answer)


@check("A02", "PS3.18 8.7.7", "an unknown type beside a known one is ignored", service=SERVICE, edition="2019e")
def unknown_beside_known(c: Context) -> None:
    expect_type(c, metadata(c, f"foo/bar, {JSON}"), JSON)


@check("A03", "PS3.18 8.7.8.1", "metadata as an image: 406", service=SERVICE)
def metadata_as_image(c: Context) -> None:
    c.expect_status(metadata(c, "image/jpeg"), 406)


@check("A04", "PS3.18 8.7.8.1", "search results as an image: 406", service=SERVICE)
def results_as_image(c: Context) -> None:
    c.stored("images")
    c.expect_status(
        c.web.get("/studies", f"StudyInstanceUID={c.maker.uid('study', 'images')}", accept="image/jpeg"), 406
    )


@check("A05", "PS3.18 8.7.8.1", "metadata as */*: application/dicom+json, the category's default", service=SERVICE)
def metadata_as_anything(c: Context) -> None:
    expect_type(c, metadata(c, "*/*"), JSON)
    expect_type(c, metadata(c, "application/*"), JSON)


@check("A08", "PS3.18 8.7.8.1", "a rendered image as */*: image/jpeg, the category's default", service=SERVICE)
def rendered_as_anything(c: Context) -> None:
    expect_type(c, rendered(c, "*/*"), "image/jpeg")


@check("A09", "PS3.18 8.7.8.1", "of two types that it has, the server takes the one of higher q", service=SERVICE)
def quality(c: Context) -> None:
    expect_type(c, rendered(c, "image/png;q=0.9, image/jpeg;q=0.1"), "image/png")
    expect_type(c, rendered(c, "image/png;q=0.1, image/jpeg;q=0.9"), "image/jpeg")


@check("A09x", "PS3.18 8.7.8.1", "the higher q decides between XML and JSON", Level.CONDITIONAL, service=SERVICE)
def quality_of_text(c: Context) -> None:
    if metadata(c, f'multipart/related; type="{XML}"').status == 406:
        raise NotSupported("metadata as XML is answered by 406")
    answer = metadata(c, f'multipart/related; type="{XML}";q=0.1, {JSON};q=0.9')
    expect_type(c, answer, JSON)
    answer = metadata(c, f'multipart/related; type="{XML}";q=0.9, {JSON};q=0.1')
    expect_type(c, answer, "multipart/related")


@check("A10", "RFC 9110 12.4.2", "q=0 excludes a type: 406 where no other is named", service=SERVICE)
def excluded(c: Context) -> None:
    c.expect_status(metadata(c, f"{JSON};q=0"), 406)


@check("A11", "RFC 9110 12.5.1", "a specific type beats a wildcard of lower q", service=SERVICE)
def specific(c: Context) -> None:
    expect_type(c, rendered(c, "*/*;q=0.1, image/png"), "image/png")


@check("A12", "PS3.18 8.7.8.1", "the accept query parameter is tried before the Accept header", service=SERVICE)
def parameter_first(c: Context) -> None:
    expect_type(c, rendered(c, "image/jpeg", "accept=image/png"), "image/png")
    expect_type(c, metadata(c, XML, "accept=application/dicom%2Bjson"), JSON)


@check("A13", "PS3.18 8.7.8.1", "an accept parameter that cannot be met falls back to the header", service=SERVICE)
def parameter_falls_back(c: Context) -> None:
    expect_type(c, metadata(c, JSON, "accept=image/foo"), JSON)


@check("A14", "PS3.18 8.3.3.1", "the accept parameter is a list with q values", service=SERVICE)
def parameter_list(c: Context) -> None:
    expect_type(c, rendered(c, "*/*", "accept=image/jpeg;q=0.5,image/png"), "image/png")
    expect_type(c, rendered(c, "*/*", "accept=image%2Fpng%3Bq%3D0.5%2Cimage%2Fjpeg"), "image/jpeg")


@check("A15", "PS3.18 8.7", "media types are compared without regard to case", service=SERVICE)
def case(c: Context) -> None:
    expect_type(c, metadata(c, "Application/DICOM+JSON"), JSON)


@check("A20", "PS3.18 8.7.4", "Accept of the Python client: application/dicom+json, application/json", service=SERVICE)
def python_client(c: Context) -> None:
    expect_type(c, metadata(c, f"{JSON}, application/json"), JSON)
    c.stored("query")
    query = f"AccessionNumber={c.maker.accession}"
    expect_type(c, c.web.get("/studies", query, accept=f"{JSON}, application/json"), JSON)


@check("A20j", "PS3.18 8.7.4", "application/json alone is served as such, or 406", Level.ROBUSTNESS, service=SERVICE)
def plain_json(c: Context) -> None:
    answer = metadata(c, "application/json")
    if c.expect_status(answer, 200, 406) and answer.status == 200:
        c.expect("Content-Type of JSON", answer.type in (JSON, "application/json"), about=answer)


@check("A35", "PS3.18 8.8", "UTF-8 as charset, in the query and in the header, is served", service=SERVICE)
def utf8(c: Context) -> None:
    expect_type(c, metadata(c, JSON, "charset=utf-8"), JSON)
    expect_type(c, metadata(c, JSON, accept_charset="utf-8"), JSON)


@check("A36", "PS3.18 8.8", "an unknown charset: 406, or UTF-8 all the same", Level.CONDITIONAL, service=SERVICE)
def unknown_charset(c: Context) -> None:
    answer = metadata(c, JSON, accept_charset="x-none")
    if c.expect_status(answer, 200, 406) and answer.status == 200:
        c.expect("UTF-8", answer.body.decode("utf-8", "strict") is not None, about=answer)


@check("A37", "PS3.18 F.2", "JSON is UTF-8; no other charset is named", service=SERVICE)
def charset(c: Context) -> None:
    answer = metadata(c, JSON)
    c.expect_status(answer, 200)
    named = answer.parameters.get("charset", "utf-8").lower()
    c.expect_equal("charset parameter", named.replace("utf8", "utf-8"), "utf-8", about=answer)
    try:
        answer.body.decode("utf-8")
        c.expect("the body is UTF-8", True, about=answer)
    except UnicodeDecodeError as error:
        c.expect("the body is UTF-8", False, error, about=answer)


@check("A38", "PS3.18 8.4", "Accept-Encoding: gzip is honoured, with the same JSON", Level.ROBUSTNESS, service=SERVICE)
def gzip(c: Context) -> None:
    path = c.sample("images", "ct").series_path + "/metadata"
    plain, packed = c.web.get(path), c.web.get(path, accept_encoding="gzip")
    c.expect_status(packed, 200)
    c.expect_equal("Content-Encoding", packed.header("Content-Encoding").lower(), "gzip", about=packed)
    c.expect("the same JSON", packed.json() == plain.json(), about=packed)


@check("A38v", "RFC 9110 12.5.5", "an answer that is packed on request says so to caches: Vary", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def vary(c: Context) -> None:
    answer = metadata(c, JSON, accept_encoding="gzip")
    c.expect_status(answer, 200)
    if answer.header("Content-Encoding") and "no-store" not in answer.header("Cache-Control"):
        c.expect("Vary names Accept-Encoding", "accept-encoding" in answer.header("Vary").lower(),
                 answer.header("Vary"), about=answer)  # fmt: skip


@check("A39", "PS3.18 8.7.9", "every answer with a body has a Content-Type, and it is true", service=SERVICE)
def content_types(c: Context) -> None:
    sample = c.sample("images", "ct")
    answers = [
        metadata(c, JSON), c.web.get(sample.path, accept='multipart/related; type="application/dicom"'),
        c.web.get("/studies", f"StudyInstanceUID={sample.study}"),
    ]  # fmt: skip
    for answer, first in zip(answers, (b"[", b"--", b"["), strict=True):
        kind = "multipart/related" if first == b"--" else JSON
        expect_type(c, answer, kind)
        c.expect(f"a body of that type (begins with {first.decode()})", answer.body.strip()[: len(first)] == first,
                 answer.body[:20], about=answer)  # fmt: skip
