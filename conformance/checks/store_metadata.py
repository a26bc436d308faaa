"""STOW-RS with metadata and bulk data apart, in JSON and in XML (PS3.18 10.5.1, 10.5.2, annex F): parts F, G."""

from __future__ import annotations

import base64
import json
from typing import Any

from conformance.check import Level, NotSupported, check
from conformance.checks.retrieve import first_metadata
from conformance.checks.store import kept
from conformance.checks.syntaxes import OBJECT, files
from conformance.client import JSON, XML, Answer
from conformance.context import Context, outcome, text, values
from conformance.data import PDF, SC, Sample, ramp, read
from conformance.multipart import join, related

SERVICE = "STOW-RS metadata"
OCTETS = "application/octet-stream"
PERSON = '<PersonName number="{}"><Alphabetic><FamilyName>{}</FamilyName></Alphabetic></PersonName>'


def attributes(c: Context, sample: Sample, **changes: Any) -> dict[str, Any]:
    """The sample in the DICOM JSON model, without its pixels; `t00100020={…}` replaces an element, None removes it."""
    made: dict[str, Any] = json.loads(sample.dataset.to_json(bulk_data_threshold=1 << 30))
    made.pop("7FE00010", None)
    for name, element in changes.items():
        if element is None:
            made.pop(name.removeprefix("t"), None)
        else:
            made[name.removeprefix("t")] = element
    return dict(sorted(made.items()))


def image(c: Context, name: str) -> Sample:
    """A small image that was not stored yet."""
    sample = c.maker.image(name, c.maker.dataset(name, "1", 1, SC), ramp(8, 8, top=250))
    c.studies.add(sample.study)
    return sample


def send(c: Context, metadata: Any, bulk: list[tuple[str, str, bytes]], kind: str = JSON) -> Answer:
    """The answer to a store of metadata and (location, media type, bytes) parts."""
    first = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    parts = [(f"Content-Type: {kind}", first)]
    parts += [(f"Content-Type: {type_}\r\nContent-Location: {place}", content) for place, type_, content in bulk]
    return c.web.post("/studies", join(parts), related(kind))


def supported(c: Context) -> None:
    """Raises NotSupported where the server takes no metadata in JSON."""

    def find() -> int:
        sample = image(c, "json support")
        bulk = {"vr": "OW", "BulkDataURI": "urn:pixels"}
        return send(c, [attributes(c, sample, t7FE00010=bulk)], [("urn:pixels", OCTETS, sample.frames[0])]).status

    status = c.fact("store of JSON", find)
    if status in (405, 406, 415, 501):
        raise NotSupported(f"{status} for metadata in JSON")


@check("F22", "PS3.18 10.5.1", "metadata in JSON and pixels beside it: stored, pixels right", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def separate(c: Context) -> None:
    supported(c)
    for place in ("urn:uuid:7f0d0a7e-0001", "http://example.org/bulk/1", "relative/1"):
        sample = image(c, f"json {place}")
        bulk = {"vr": "OB", "BulkDataURI": place}
        answer = send(c, [attributes(c, sample, t7FE00010=bulk)], [(place, OCTETS, sample.frames[0])])
        c.expect_status(answer, 200)
        c.expect_equal("stored", outcome(answer)[0], {sample.instance}, about=answer)
        for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
            got = read(file)
            c.expect_equal("pixels", bytes(got.PixelData), sample.frames[0], about=answer)
            c.expect_equal("patient", str(got.PatientID), str(sample.dataset.PatientID), about=answer)


@check("F23", "PS3.18 10.5.2", "a bulk part that is missing: that instance fails, the other is stored",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def missing(c: Context) -> None:
    supported(c)
    one, two = image(c, "json whole"), image(c, "json missing")
    metadata = [
        attributes(c, sample, t7FE00010={"vr": "OB", "BulkDataURI": f"urn:{number}"})
        for number, sample in enumerate((one, two))
    ]
    answer = send(c, metadata, [("urn:0", OCTETS, one.frames[0])])
    c.expect_status(answer, 202, 400, 409)
    c.expect("the instance without pixels is not kept", not kept(c, two), about=answer)
    if answer.status == 202:
        c.expect_equal("stored", outcome(answer)[0], {one.instance}, about=answer)


@check("F24", "PS3.18 10.5.1", "metadata in XML: stored, or 415", Level.CONDITIONAL, service=SERVICE)
def in_xml(c: Context) -> None:
    sample = image(c, "xml")
    rows = []
    for tag, element in attributes(c, sample).items():
        inner = "".join(
            PERSON.format(n, value["Alphabetic"]) if isinstance(value, dict) else f'<Value number="{n}">{value}</Value>'
            for n, value in enumerate(element.get("Value", []), 1)
        )  # fmt: skip
        rows.append(f'<DicomAttribute tag="{tag}" vr="{element["vr"]}">{inner}</DicomAttribute>')
    rows.append('<DicomAttribute tag="7FE00010" vr="OB"><BulkData uri="urn:x"/></DicomAttribute>')
    space = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
    body = f'<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel xmlns="{space}">{"".join(rows)}</NativeDicomModel>'
    answer = send(c, body.encode(), [("urn:x", OCTETS, sample.frames[0])], XML)
    if answer.status in (406, 415, 501):
        raise NotSupported(f"{answer.status} for metadata in XML")
    c.expect_status(answer, 200)
    for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
        c.expect_equal("pixels", bytes(read(file).PixelData), sample.frames[0], about=answer)


@check("F26", "PS3.18 10.5.2", "a PDF as application/pdf with the metadata of an encapsulated document",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def document(c: Context) -> None:
    supported(c)
    content = bytes(c.sample("images", "pdf").dataset.EncapsulatedDocument)
    ds = c.maker.dataset("json pdf", "1", 1, PDF, Modality="DOC", MIMETypeOfEncapsulatedDocument="application/pdf")
    ds.BurnedInAnnotation, ds.DocumentTitle = "NO", "conformance"
    sample = c.maker.sample("json pdf", ds)
    c.studies.add(sample.study)
    bulk = {"vr": "OB", "BulkDataURI": "urn:pdf"}
    answer = send(c, [attributes(c, sample, t00420011=bulk)], [("urn:pdf", "application/pdf", content)])
    if answer.status in (400, 409, 415):
        raise NotSupported(f"{answer.status} for a part of application/pdf")
    c.expect_status(answer, 200, 202)
    for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
        c.expect_equal("document", bytes(read(file).EncapsulatedDocument), content, about=answer)


@check("G35", "PS3.18 F.2", "input: IS as number or string, DS as number, elements without a value", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def lenient(c: Context) -> None:
    supported(c)
    sample = image(c, "json numbers")
    answer = send(c, [attributes(
        c, sample, t7FE00010={"vr": "OB", "InlineBinary": base64.b64encode(sample.frames[0]).decode()},
        t00200011={"vr": "IS", "Value": ["17"]}, t00200013={"vr": "IS", "Value": [3]},
        t00180050={"vr": "DS", "Value": [1.25]}, t00081030={"vr": "LO"},
    )], [])  # fmt: skip
    c.expect_status(answer, 200)
    if answer.status == 200:
        found, request = first_metadata(c, sample)
        c.expect_equal("SeriesNumber", text(found, "00200011"), "17", about=request)
        c.expect_equal("InstanceNumber", text(found, "00200013"), "3", about=request)
        c.expect("SliceThickness 1.25", float(text(found, "00180050") or 0) == 1.25, about=request)
        c.expect("an empty StudyDescription", not values(found, "00081030"), about=request)


@check("G36", "PS3.18 F.2", "input: bad base64, an unknown VR, a value of the wrong type: refused", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def malformed(c: Context) -> None:
    supported(c)
    broken: dict[str, dict[str, Any]] = {
        "base64": {"t7FE00010": {"vr": "OB", "InlineBinary": "*** no base64 ***"}},
        "vr": {"t00081030": {"vr": "ZZ", "Value": ["x"]}},
        "type": {"t00280010": {"vr": "US", "Value": ["many"]}},
        "object": {"t00081030": "x"},
    }
    for name, changes in broken.items():
        sample = image(c, f"json bad {name}")
        answer = send(c, [attributes(c, sample, **changes)], [])
        c.expect("400 or 409", answer.status in (400, 409), name, about=answer)
        c.expect("not kept", not kept(c, sample), about=answer)
    for body in (b"[{", b"5", b"[5]", b"\xff\xfe"):
        answer = send(c, body, [])
        c.expect("400 or 409", answer.status in (400, 409), body, about=answer)


@check("G37", "PS3.5 7.1.1", "input: InlineBinary of odd length is padded to even", Level.CONDITIONAL, service=SERVICE)
def odd(c: Context) -> None:
    supported(c)
    ds = c.maker.dataset("json odd", "1", 1, SC)
    sample = c.maker.image("json odd", ds, ramp(5, 5, top=250))
    c.studies.add(sample.study)
    inline = base64.b64encode(sample.frames[0]).decode()
    answer = send(c, [attributes(c, sample, t7FE00010={"vr": "OB", "InlineBinary": inline})], [])
    c.expect_status(answer, 200)
    for _, file in files(c, c.web.get(sample.path, accept=OBJECT)):
        c.expect_equal(
            "25 bytes and one of padding", bytes(read(file).PixelData), sample.frames[0] + b"\0", about=answer
        )


@check("G38", "PS3.18 F.2.6", "metadata as the server gave it can be stored again, with its BulkDataURI",
       Level.ROBUSTNESS, service=SERVICE)  # fmt: skip
def given_back(c: Context) -> None:
    supported(c)
    source = c.sample("images", "ct")
    found, request = first_metadata(c, source)
    uri = found.get("7FE00010", {}).get("BulkDataURI")
    c.expect("a BulkDataURI", uri, about=request)
    copy = dict(found) | {"00080018": {"vr": "UI", "Value": [c.maker.uid("given back")]}}
    for tag in [tag for tag, element in copy.items() if isinstance(element, dict) and "BulkDataURI" in element]:
        if tag != "7FE00010":
            del copy[tag]
    assert source.pixels is not None
    answer = send(c, [copy], [(str(uri), OCTETS, source.pixels.tobytes())])
    c.expect_status(answer, 200)
    where = f"{source.series_path}/instances/{c.maker.uid('given back')}"
    for _, file in files(c, c.web.get(where, accept=OBJECT)):
        c.expect_equal("pixels", bytes(read(file).PixelData), source.pixels.tobytes(), about=answer)
