"""The DICOM JSON Model (PS3.18 annex F), in the metadata of objects that try each of its rules: part G."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from pydicom import Dataset

from conformance.check import Level, NotSupported, check
from conformance.checks.retrieve import first_metadata, stored
from conformance.context import Context, text, values
from conformance.corpus import ALPHABETS, JAPANESE
from conformance.data import Sample, read
from conformance.model import GROUPS, TAG, faults

SERVICE = "JSON"


def metadata(c: Context, name: str = "plain", corpus: str = "model") -> tuple[dict[str, Any], str]:
    """The metadata of a sample, and the request in words."""
    return first_metadata(c, c.sample(corpus, name))


def expect_element(c: Context, found: dict[str, Any], request: str, tag: str, *wanted: Any) -> None:
    """Judge a whole element; several forms may be right."""
    expected = " or ".join(json.dumps(each, ensure_ascii=False) for each in wanted)
    seen = json.dumps(found.get(tag), ensure_ascii=False)
    c.expect(f"{tag}: {expected}", found.get(tag) in wanted, seen, about=request)


def every_answer(c: Context) -> list[tuple[str, dict[str, Any]]]:
    """Objects of searches and metadata at every level, with the requests in words."""
    c.stored("query")
    sample = c.sample("model", "plain")
    found = []
    for path, query in (
        ("/studies", f"AccessionNumber={c.maker.accession}&includefield=all"),
        (c.sample("query", "alpha/CT/1").study_path + "/series", "includefield=all"),
        (c.sample("query", "alpha/CT/1").series_path + "/instances", "includefield=all"),
        (sample.study_path + "/metadata", ""), (c.sample("images", "ct").study_path + "/metadata", ""),
    ):  # fmt: skip
        answer = c.web.get(path, query)
        found += [(answer.request, each) for each in c.objects(answer)]
    return found


@check("G01", "PS3.18 F.2.1", "several results: one array of objects", service=SERVICE)
def array(c: Context) -> None:
    c.stored("query")
    answer = c.web.get("/studies", f"AccessionNumber={c.maker.accession}")
    body = answer.json()
    c.expect("a JSON array of objects", isinstance(body, list) and len(body) == 5, type(body).__name__, about=answer)


@check("G02", "PS3.18 F.2.2", "every answer keeps every rule of the model: order, names, vr, values", service=SERVICE)
def rules(c: Context) -> None:
    answers = every_answer(c)
    c.expect("objects to judge", len(answers) > 10, len(answers))
    for request, found in answers:
        broken = list(faults(found))
        c.expect("no rule of annex F broken", not broken, "; ".join(broken[:10]), about=request)


@check("G03", "PS3.18 F.2.2", "names are eight upper-case hexadecimal digits; no group lengths", service=SERVICE)
def names(c: Context) -> None:
    found, request = metadata(c)
    wrong = [tag for tag in found if not TAG.fullmatch(tag) or tag.endswith("0000")]
    c.expect("no other names", found and not wrong, wrong, about=request)


@check("G07", "PS3.18 F.2.5", "an attribute without a value has vr alone", service=SERVICE)
def empty(c: Context) -> None:
    found, request = metadata(c)
    for tag, vr in (("00080090", "PN"), ("00200020", "CS"), ("00081032", "SQ"), ("00082112", "SQ")):
        expect_element(c, found, request, tag, {"vr": vr})


@check("G08", "PS3.18 F.2.5", "an empty value among others is null", service=SERVICE)
def null(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00080008", {"vr": "CS", "Value": ["ORIGINAL", None, "PRIMARY"]})


@check("G10", "PS3.18 F.2.5", "an empty item is an empty object", service=SERVICE)
def empty_item(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00081110", {"vr": "SQ", "Value": [{}]})


@check("G11", "PS3.18 F.2.2", "a name has only the groups that it has", service=SERVICE)
def name(c: Context) -> None:
    found, request = metadata(c, "epsilon/OT/1", "query")
    groups = dict(zip(GROUPS, JAPANESE.split("="), strict=True))
    expect_element(c, found, request, "00100010", {"vr": "PN", "Value": [groups]})
    found, request = metadata(c, "beta/CR/1", "query")
    expect_element(c, found, request, "00100010", {"vr": "PN", "Value": [{"Alphabetic": "ZZConformance^Beta"}]})


@check("G12", "PS3.18 F.2.2", "a name with an ideographic group alone", service=SERVICE)
def ideographic(c: Context) -> None:
    found, request = metadata(c, "ideographic")
    expect_element(c, found, request, "00100010", {"vr": "PN", "Value": [{"Ideographic": "ZZ山田^太郎"}]})


@check("G13", "PS3.18 F.2.5", "an empty name among others is null", service=SERVICE)
def null_name(c: Context) -> None:
    found, request = metadata(c)
    ends = [{"Alphabetic": "ZZOne^A"}, {"Alphabetic": "ZZTwo^B"}]
    expect_element(c, found, request, "00081048", {"vr": "PN", "Value": [ends[0], None, ends[1]]})


@check("G14", "PS3.5 6.2.1", "the components of a name stay; empty ones at the end may go", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def components(c: Context) -> None:
    found, request = metadata(c)
    seen = text(found, "00100010").rstrip("^")
    c.expect_equal("name without delimiters at the end", seen, "ZZDoe^John", about=request)


@check("G15", "PS3.18 F.2.3", "IS and DS are numbers or strings of the same value", service=SERVICE)
def decimal(c: Context) -> None:
    found, request = metadata(c)
    value = values(found, "00181150")
    c.expect("IS +12 as 12, not as 12.0", value in ([12], ["+12"], ["12"]) and not isinstance(value[0], float),
             value, about=request)  # fmt: skip


@check("G16", "PS3.18 F.2.3", "a DS keeps its value, as a string where a number would lose it", service=SERVICE)
def precise(c: Context) -> None:
    found, request = metadata(c)
    seen = values(found, "00180050")
    c.expect("0.1234567890123456", seen in ([0.1234567890123456], ["0.1234567890123456"]), seen, about=request)
    seen = values(found, "00180060")
    c.expect("1E400 as a string", seen in (["1E400"], ["1e400"], ["1E+400"]), seen, about=request)


@check("G18", "PS3.18 F.2.3", "SV and UV beyond 2^53 keep every digit", service=SERVICE)
def large_integers(c: Context) -> None:
    found, request = metadata(c)
    for tag, number in (("00191002", -(2**63)), ("00191003", 2**64 - 1)):
        element = found.get(tag, {})
        raw = base64.b64decode(element["InlineBinary"]) if "InlineBinary" in element else b""
        seen = values(found, tag) or [int.from_bytes(raw, "little", signed=number < 0)] if element else []
        c.expect(f"{tag}: {number}", seen in ([number], [str(number)]), element, about=request)


@check("G19", "PS3.18 F.2.3", "US, SS, UL, FL and FD are numbers, and read back exactly", service=SERVICE)
def numbers(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00186016", {"vr": "UL", "Value": [4294967295]})
    expect_element(c, found, request, "00189073", {"vr": "FD", "Value": [0.1]})
    expect_element(c, found, request, "00189087", {"vr": "FD", "Value": [1e-300]})
    seen = values(found, "0018605A")
    same = len(seen) == 1 and isinstance(seen[0], (int, float)) and struct.pack("<f", seen[0]) == struct.pack("<f", 0.1)
    c.expect("FL 0.1, the same 32 bits", same, seen, about=request)


@check("G22", "PS3.18 F.2.3", "AT is eight upper-case hexadecimal digits", service=SERVICE)
def attribute_tag(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00280009", {"vr": "AT", "Value": ["00181063"]})


@check("G23", "PS3.18 F.2.7", "small binary values: base64 of the whole value, little endian, or a URI",
       service=SERVICE)  # fmt: skip
def inline(c: Context) -> None:
    found, request = metadata(c)
    for tag, raw in (("00191008", b"\1\0\2\1"), ("00191004", struct.pack("<Q", 2**63)), ("00191001", b"\0\1\2\3")):
        element = found.get(tag, {})
        if "BulkDataURI" in element:
            continue
        seen = base64.b64decode(element.get("InlineBinary", ""))
        c.expect_equal(f"{tag}, decoded", seen, raw, about=request)
    c.expect("InlineBinary or BulkDataURI", {"InlineBinary", "BulkDataURI"} & set(found.get("00191008", {})),
             found.get("00191008"), about=request)  # fmt: skip


@check("G25", "PS3.18 F.2.4", "a backslash separates values of SH and UC, not of LT and UR", service=SERVICE)
def backslash(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00102160", {"vr": "SH", "Value": ["A", "B"]})
    expect_element(c, found, request, "001021B0", {"vr": "LT", "Value": ["one\\value"]})
    expect_element(c, found, request, "00191007", {"vr": "UC", "Value": ["one", "two"]})


@check("G27", "PS3.18 F.2", "every character set arrives as UTF-8, with the right characters", service=SERVICE)
def utf8(c: Context) -> None:
    for sample in stored(c, "charsets"):
        terms = "" if sample.name == "default" else sample.name
        wanted = f"ZZ{ALPHABETS[terms]}".split("=")
        found, request = first_metadata(c, sample)
        value = (values(found, "00100010") or [{}])[0]
        seen = [value.get(group, "") for group in GROUPS][: len(wanted)]
        c.expect_equal(f"the name in {sample.name}", seen, wanted, about=request)


@check("G27s", "PS3.18 F.2", "Specific Character Set says ISO_IR 192, whatever the object says", service=SERVICE)
def named(c: Context) -> None:
    for sample in stored(c, "charsets"):
        if sample.name != "default":
            found, request = first_metadata(c, sample)
            seen = values(found, "00080005")
            c.expect("Specific Character Set ISO_IR 192, or none", seen in ([], ["ISO_IR 192"]), seen, about=request)


@check("G28", "PS3.18 F.2.1", "no padding: neither spaces at the end nor NUL", service=SERVICE)
def padding(c: Context) -> None:
    for name_, corpus in (("plain", "model"), ("ct", "images")):
        found, request = metadata(c, name_, corpus)
        wrong = [tag for tag in found for value in values(found, tag)
                 if isinstance(value, str) and value != value.rstrip(" \0")]  # fmt: skip
        c.expect("no value that ends in a space or NUL", found and not wrong, wrong, about=request)


@check("G29", "PS3.18 F.2.2", "private elements are there, with their creator", service=SERVICE)
def private(c: Context) -> None:
    found, request = metadata(c)
    expect_element(c, found, request, "00190010", {"vr": "LO", "Value": ["ZZ CONFORMANCE"]})
    c.expect("00191005", "00191005" in found, sorted(found), about=request)


@check("G31", "PS3.5 A.2", "US or SS is resolved by Pixel Representation", service=SERVICE)
def sign(c: Context) -> None:
    found, request = metadata(c, "sign")
    expect_element(c, found, request, "00280106", {"vr": "SS", "Value": [-100]})
    expect_element(c, found, request, "00280107", {"vr": "SS", "Value": [100]})


@check("G34", "PS3.18 F.2", "the JSON of an object read back is the object", service=SERVICE)
def back(c: Context) -> None:
    for sample in (c.sample("query", "beta/CR/1"), c.sample("images", "report")):
        found, request = first_metadata(c, sample)
        try:
            got = Dataset.from_json({tag: element for tag, element in found.items() if "BulkDataURI" not in element})
        except Exception as error:
            c.expect("a data set for pydicom", False, error, about=request)
            continue
        sent = read(sample.file)
        wrong = [str(each.tag) for each in sent if each.VR not in ("OW", "OB", "SQ")
                 and (each.tag not in got or str(got[each.tag].value) != str(each.value))]  # fmt: skip
        c.expect("every element equal", not wrong, wrong, about=request)


def digits(c: Context, name: str) -> tuple[dict[str, Any], str]:
    """The metadata of a sample that JSON has no numbers for; the answer is judged to be JSON."""
    sample: Sample = c.sample("not numbers", name)
    answer = c.web.get(sample.path + "/metadata")
    found = c.objects(answer)
    return (found[0] if found else {}), answer.request


@check("G21", "RFC 8259 6", "NaN and infinities: valid JSON all the same", service=SERVICE, last=1)
def not_a_number(c: Context) -> None:
    found, request = digits(c, "nan")
    for tag in ("00189073", "0018605A"):
        element = found.get(tag, {})
        c.expect(f"{tag} is there, as BulkDataURI, InlineBinary or strings",
                 {"BulkDataURI", "InlineBinary", "Value"} & set(element), element, about=request)  # fmt: skip


@check("G17", "PS3.18 F.2.3", "DS and IS that are no numbers: valid JSON, the text kept", Level.ROBUSTNESS,
       service=SERVICE, last=1)  # fmt: skip
def illegal(c: Context) -> None:
    found, request = digits(c, "illegal")
    c.expect_equal("DS", values(found, "00180050"), ["abc"], about=request)
    c.expect("IS 1.5 as text", values(found, "00181150") == ["1.5"], values(found, "00181150"), about=request)
    c.expect_equal("an old date", values(found, "00080020"), ["2020.01.01"], about=request)


@check("G33", "PS3.18 F.2", "sequences sixty levels deep: answered or refused, and the server lives", Level.ROBUSTNESS,
       service=SERVICE, last=1)  # fmt: skip
def deep(c: Context) -> None:
    sample = c.sample("nested", "deep")
    answer = c.web.get(sample.path + "/metadata")
    c.expect("200 or a 4xx", answer.status == 200 or 400 <= answer.status < 500, about=answer)
    if answer.status != 200:
        raise NotSupported(f"{answer.status} for sequences sixty levels deep")
    element: Any = answer.objects()[0]
    level = 0
    while isinstance(element, dict) and "0040A730" in element:
        level += 1
        element = next(iter(values(element, "0040A730")), None)
    c.expect_equal("levels", level, 61, about=answer)
