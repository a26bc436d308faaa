"""What holds for every DICOMweb service: resources, methods, parameters, status codes, caches (PS3.18 8): part B."""

from __future__ import annotations

import re

from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.client import JSON
from conformance.context import Context, text, values
from conformance.multipart import join, related

SERVICE = "common"


@check("B01", "PS3.18 8.5", "a resource that does not exist: 404", service=SERVICE)
def unknown_path(c: Context) -> None:
    c.expect_status(c.web.get("/no-such-resource"), 404)
    c.expect_status(c.web.get("/no-such-resource/1"), 404)


@check("B02", "PS3.18 8.5", "a method that a resource does not have: 405 with Allow", service=SERVICE)
def method(c: Context) -> None:
    answer = c.web.request("PUT", "/studies", body=b"", headers={"Content-Type": JSON})
    if c.expect_status(answer, 405):
        allowed = {each.strip().upper() for each in answer.header("Allow").split(",")}
        c.expect("Allow names GET, and not PUT (RFC 9110 15.5.6)", "GET" in allowed and "PUT" not in allowed,
                 answer.header("Allow"), about=answer)  # fmt: skip


@check("B03", "PS3.18 8.5", "what is no UID in the path: 400 or 404", service=SERVICE)
def bad_uid(c: Context) -> None:
    c.expect_status(c.web.get("/studies/not-a-uid/metadata"), 400, 404)


@check("B04", "PS3.18 8.3", "an unknown query parameter is ignored", service=SERVICE)
def unknown_parameter(c: Context) -> None:
    path = c.sample("images", "ct").path + "/metadata"
    answer, plain = c.web.get(path, "foo=bar"), c.web.get(path)
    if c.expect_status(answer, 200):
        c.expect("the same answer as without it", answer.json() == plain.json(), about=answer)


@check("B05", "PS3.18 8.3.1", "names of parameters are case-sensitive: LIMIT is not limit", service=SERVICE)
def parameter_case(c: Context) -> None:
    c.stored("query")
    answer = c.web.get("/studies", f"AccessionNumber={c.maker.accession}&LIMIT=1")
    if c.expect_status(answer, 200):
        c.expect_equal("studies", len(c.objects(answer)), 5, about=answer)


@check("B06", "PS3.18 8.3.1", "a parameter given twice that may stand once: 400", Level.ROBUSTNESS, service=SERVICE)
def twice(c: Context) -> None:
    c.stored("query")
    c.expect_status(c.web.get("/studies", f"AccessionNumber={c.maker.accession}&limit=1&limit=2"), 400)


@check("B07", "RFC 3986 2.1", "percent-encoded names and values are decoded once", service=SERVICE)
def encoded(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    pid = str(sample.dataset.PatientID)
    hexed = "".join(f"%{ord(letter):02X}" for letter in pid)
    for query in (f"PatientID={hexed}", f"%50atientID={pid}", f"PatientID={pid.replace('-', '%2d')}"):
        answer = c.web.get("/studies", query)
        c.expect_equal("studies", [text(each, "0020000D") for each in c.objects(answer)], [sample.study], about=answer)
    answer = c.web.get("/studies", f"PatientID={pid.replace('-', '%252D')}")
    c.expect_equal("studies for %252D, which is the text %2D", len(c.objects(answer, 200, 204)), 0, about=answer)


@check("B13", "PS3.18 8.5", "an error is a short report: no stack trace", Level.ROBUSTNESS, service=SERVICE)
def errors(c: Context) -> None:
    for query in ("limit=abc", "StudyDate=nonsense", "%zz=1"):
        answer = c.web.get("/studies", query)
        found = re.search(rb"Traceback|\bat [\w.$]+\([\w.]+:\d+\)|Stack ?trace", answer.body)
        c.expect("no stack trace, no 500", not found and answer.status < 500, about=answer)
        c.expect("at most 4 KiB", answer.status < 400 or len(answer.body) <= 4096, len(answer.body), about=answer)


@check("B15", "PS3.18 8.11", "without credentials: 401 with WWW-Authenticate", Level.CONDITIONAL, service=SERVICE)
def anonymous(c: Context) -> None:
    if not c.web.secrets:
        raise NotApplicable("no credentials were given")
    path = c.sample("images", "ct").path
    first = c.web.request("GET", path + "/metadata", anonymous=True)
    if first.status == 200:
        raise NotSupported("the server answers without credentials")
    for method, where in (("GET", path), ("GET", "/studies"), ("POST", "/studies"), ("GET", path + "/frames/1")):
        answer = c.web.request(method, where, anonymous=True, accept="*/*", body=b"" if method == "POST" else None)
        if c.expect_status(answer, 401):
            c.expect("WWW-Authenticate (RFC 9110 15.5.2)", answer.header("WWW-Authenticate"), about=answer)
    wrong = c.web.request("GET", path + "/metadata", anonymous=True, headers={"Authorization": "Bearer no-such-token"})
    c.expect_status(wrong, 401)


@check("B16", "PS3.18 8.11", "a token that may only read: 403 for a store, and nothing is kept", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def read_only(c: Context) -> None:
    if not c.options.read_only_token:
        raise NotApplicable("no --read-only-token was given")
    sample = c.maker.sample("forbidden", c.maker.dataset("forbidden", "1", 1))
    headers = {"Content-Type": related("application/dicom"), "Authorization": f"Bearer {c.options.read_only_token}"}
    body = join([("Content-Type: application/dicom", sample.file)])
    c.expect_status(c.web.request("POST", "/studies", headers=headers, body=body), 403)
    c.expect_status(c.web.get("/studies", f"StudyInstanceUID={sample.study}"), 204)


@check("B17", "RFC 9110 13.1.2", "If-None-Match with the ETag of the answer: 304 without a body", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def not_modified(c: Context) -> None:
    path = c.sample("images", "ct").series_path + "/metadata"
    first = c.web.get(path)
    tag = first.header("ETag")
    if not tag:
        raise NotSupported("metadata comes without an ETag")
    again = c.web.get(path, if_none_match=tag)
    c.expect_status(again, 304)
    c.expect_equal("length of the body", len(again.raw), 0, about=again)
    c.expect_status(c.web.get(path, if_none_match='"another"'), 200)


@check(
    "B18", "RFC 9110 8.8.3", "the ETag of a series changes when an instance comes", Level.CONDITIONAL, service=SERVICE
)
def new_tag(c: Context) -> None:
    one, two = (c.maker.sample(f"tag{n}", c.maker.dataset("tag", "1", n, InstanceNumber=n)) for n in (1, 2))
    c.store([one])
    path = one.series_path + "/metadata"
    tag = c.web.get(path).header("ETag")
    if not tag:
        raise NotSupported("metadata comes without an ETag")
    c.store([two])
    answer = c.web.get(path, if_none_match=tag)
    if c.expect_status(answer, 200):
        c.expect("another ETag", answer.header("ETag") != tag, about=answer)
        c.expect_equal("instances", len(c.objects(answer)), 2, about=answer)


@check("B19", "RFC 9112 7.1", "a request body in chunks, without Content-Length, is accepted", service=SERVICE)
def chunked(c: Context) -> None:
    sample = c.maker.sample("chunked", c.maker.dataset("chunked", "1", 1))
    body = join([("Content-Type: application/dicom", sample.file)])
    c.studies.add(sample.study)
    pieces = (body[at : at + 300] for at in range(0, len(body), 300))
    answer = c.web.request("POST", "/studies", headers={"Content-Type": related("application/dicom")}, body=pieces)
    c.expect_status(answer, 200)
    c.expect_status(c.web.get(sample.path + "/metadata"), 200)


@check("B20", "RFC 9110 10.1.1", "Expect: 100-continue does no harm", Level.ROBUSTNESS, service=SERVICE)
def expects(c: Context) -> None:
    sample = c.maker.sample("expect", c.maker.dataset("expect", "1", 1))
    c.studies.add(sample.study)
    headers = {"Content-Type": related("application/dicom"), "Expect": "100-continue"}
    body = join([("Content-Type: application/dicom", sample.file)])
    c.expect_status(c.web.request("POST", "/studies", headers=headers, body=body), 200)


@check("B21", "PS3.18 8.2", "every URL that an answer carries can be fetched as it stands", service=SERVICE)
def links(c: Context) -> None:
    sample = c.sample("images", "ct")
    urls = []
    for path, accept in (("/studies", "application/dicom"), (sample.study_path + "/series", "application/dicom")):
        answer = c.web.get(path, f"StudyInstanceUID={sample.study}" if path == "/studies" else "limit=1")
        found = [str(url) for each in c.objects(answer) for url in values(each, "00081190")]
        c.expect("a Retrieve URL (0008,1190) in each result", found, about=answer)
        urls += [(url, f'multipart/related; type="{accept}"') for url in found]
    for url, accept in urls:
        c.expect("an absolute URL", url.startswith(("http://", "https://")), url, about=f"GET {sample.study_path}")
        if url.startswith("http"):
            c.expect_status(c.web.request("GET", url, accept=accept), 200)


@check("B22", "PS3.18 8.2", "a trailing slash does no harm", Level.ROBUSTNESS, service=SERVICE)
def slash(c: Context) -> None:
    query = f"StudyInstanceUID={c.sample('images', 'ct').study}"
    answer = c.web.get("/studies/", query)
    c.expect_status(answer, 200, 301, 307, 308)


@check("B23", "RFC 9110 9.3.2", "HEAD has the headers of GET and no body, or is 405", Level.ROBUSTNESS, service=SERVICE)
def head(c: Context) -> None:
    path = c.sample("images", "ct").path + "/metadata"
    answer = c.web.request("HEAD", path)
    if c.expect_status(answer, 200, 405) and answer.status == 200:
        c.expect_equal("Content-Type", answer.type, c.web.get(path).type, about=answer)
    c.expect_equal("length of the body", len(answer.raw), 0, about=answer)
