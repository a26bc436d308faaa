"""QIDO-RS: which attributes a result has (PS3.18 Tables 10.6.3-3 to 10.6.3-5) and includefield: part C."""

from __future__ import annotations

from typing import Any

from conformance.check import Level, NotSupported, check
from conformance.client import XML, Answer, xml
from conformance.context import Context, text, values

SERVICE = "QIDO-RS"
STUDY = (
    "00080020", "00080030", "00080050", "00080061", "00080090", "00100010", "00100020", "00100030", "00100040",
    "0020000D", "00200010", "00201206", "00201208",
)  # fmt: skip
SERIES = ("00080060", "0020000E", "00200011", "00201209")
INSTANCE = ("00080016", "00080018", "00200013")


def one(c: Context, path: str, query: str) -> tuple[dict[str, Any], Answer]:
    """The single result that a search has to give; empty where it does not."""
    answer = c.web.get(path, query)
    found = c.objects(answer)
    c.expect_equal("results", len(found), 1, about=answer)
    return (found[0] if found else {}), answer


def relational(c: Context, path: str) -> None:
    """Raises NotSupported where a search across parents is not there: table 10.6.1-1 leaves it to the server."""

    def find() -> int:
        return c.web.get(path, "limit=1").status

    status = c.fact(f"search {path.rpartition('/')[2]} of {path.count('/')}", find)
    if status in (404, 405, 501):
        raise NotSupported(f"GET {path} gives {status}: no search across parents")


def expect_present(c: Context, result: dict[str, Any], answer: Answer, *tags: str) -> None:
    """Judge that these attributes are there, with or without a value."""
    missing = [tag for tag in tags if tag not in result]
    c.expect(f"the attributes {' '.join(tags)}", not missing, f"missing: {' '.join(missing)}", about=answer)


@check("C10", "PS3.18 Table 10.6.3-3", "a study has the attributes that are required", service=SERVICE)
def study(c: Context) -> None:
    sample = c.sample("query", "alpha/CT/1")
    result, answer = one(c, "/studies", f"StudyInstanceUID={sample.study}")
    expect_present(c, result, answer, *STUDY)
    for tag, wanted in (("00080020", "20240105"), ("00100010", "ZZConformance^Alpha^Ann"), ("00100030", "19500101"),
                        ("00100040", "O"), ("00200010", "ZZA1"), ("00080050", c.maker.accession)):  # fmt: skip
        c.expect_equal(tag, text(result, tag), wanted, about=answer)


@check("C11", "PS3.18 10.6.3.3", "an attribute without a value is there, without Value", service=SERVICE)
def empty(c: Context) -> None:
    for name, tag in (("delta/CT/1", "00100010"), ("gamma/MR/1", "00200010")):
        result, answer = one(c, "/studies", f"StudyInstanceUID={c.sample('query', name).study}")
        c.expect(f"{tag} is there", tag in result, about=answer)
        c.expect(f"{tag} has no Value", "Value" not in result.get(tag, {}), result.get(tag), about=answer)


@check("C12", "PS3.18 Table 10.6.3-3", "Retrieve URL is there at each level, and works", service=SERVICE)
def retrieve_url(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    for path, query in (("/studies", f"StudyInstanceUID={sample.study}"), (sample.study_path + "/series", ""),
                        (sample.series_path + "/instances", "")):  # fmt: skip
        result, answer = one(c, path, query)
        url = text(result, "00081190")
        c.expect("Retrieve URL (0008,1190)", url, about=answer)
        if url.startswith("http"):
            c.expect_status(c.web.request("GET", url, accept='multipart/related; type="application/dicom"'), 200)


@check("C13", "PS3.18 Table 10.6.3-3", "Instance Availability, where it is given, is a defined term", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def availability(c: Context) -> None:
    result, answer = one(c, "/studies", f"StudyInstanceUID={c.sample('query', 'beta/CR/1').study}")
    if "00080056" not in result:
        raise NotSupported("no Instance Availability (0008,0056)")
    terms = ("ONLINE", "NEARLINE", "OFFLINE", "UNAVAILABLE")
    c.expect(" or ".join(terms), text(result, "00080056") in terms, text(result, "00080056"), about=answer)


@check(
    "C14", "PS3.18 Table 10.6.3-3", "the numbers of series and instances are true, also after a store", service=SERVICE
)
def counts(c: Context) -> None:
    sample = c.sample("query", "alpha/CT/1")
    result, answer = one(c, "/studies", f"StudyInstanceUID={sample.study}")
    c.expect_equal("NumberOfStudyRelatedSeries", text(result, "00201206"), "2", about=answer)
    c.expect_equal("NumberOfStudyRelatedInstances", text(result, "00201208"), "4", about=answer)
    result, answer = one(c, sample.study_path + "/series", "Modality=CT")
    c.expect_equal("NumberOfSeriesRelatedInstances", text(result, "00201209"), "3", about=answer)
    more = c.maker.sample("more1", c.maker.dataset("more", "1", 1))
    c.store([more])
    c.store([c.maker.sample("more2", c.maker.dataset("more", "2", 1))])
    result, answer = one(c, "/studies", f"StudyInstanceUID={more.study}")
    seen = (text(result, "00201206"), text(result, "00201208"))
    c.expect_equal("series and instances after two stores", seen, ("2", "2"), about=answer)


@check("C15", "PS3.18 Table 10.6.3-4", "a series has the attributes that are required", service=SERVICE)
def series(c: Context) -> None:
    result, answer = one(c, c.sample("query", "beta/CR/1").study_path + "/series", "")
    expect_present(c, result, answer, *SERIES)
    c.expect_equal("Modality", text(result, "00080060"), "CR", about=answer)
    c.expect_equal("SeriesNumber", text(result, "00200011"), "7", about=answer)


@check("C16", "PS3.18 Table 10.6.3-4", "a series has description, performed step and request where they are known",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def series_known(c: Context) -> None:
    result, answer = one(c, c.sample("query", "beta/CR/1").study_path + "/series", "")
    expect_present(c, result, answer, "00400244", "00400245", "00400275")
    item = (values(result, "00400275") or [{}])[0]
    c.expect_equal("Scheduled Procedure Step ID in the item", text(item, "00400009"), "ZZSPS1", about=answer)
    result, answer = one(c, c.sample("query", "alpha/CT/1").study_path + "/series", "Modality=CT")
    c.expect_equal("SeriesDescription", text(result, "0008103E"), "axial", about=answer)


@check("C17", "PS3.18 Table 10.6.3-5", "an instance has the attributes that are required", service=SERVICE)
def instance(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    result, answer = one(c, sample.series_path + "/instances", "")
    expect_present(c, result, answer, *INSTANCE, "00280010", "00280011", "00280100")
    c.expect_equal("SOP Instance UID", text(result, "00080018"), sample.instance, about=answer)
    c.expect_equal("Rows", values(result, "00280010"), [8], about=answer)
    frames = c.sample("images", "frames")
    result, answer = one(c, frames.series_path + "/instances", "")
    c.expect_equal("NumberOfFrames", text(result, "00280008"), "3", about=answer)


@check(
    "C18", "PS3.18 10.6.3.3.2", "a search for all series gives also the attributes of their studies", service=SERVICE
)
def all_series(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    relational(c, "/series")
    result, answer = one(c, "/series", f"SeriesInstanceUID={sample.series}")
    expect_present(c, result, answer, *STUDY, *SERIES)
    c.expect_equal("StudyDate", text(result, "00080020"), "20240131", about=answer)


@check("C19", "PS3.18 10.6.3.3.3", "a search across parents gives also the attributes of those above", service=SERVICE)
def all_instances(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    relational(c, "/instances")
    result, answer = one(c, "/instances", f"SOPInstanceUID={sample.instance}")
    expect_present(c, result, answer, *STUDY, *SERIES, *INSTANCE)


@check("C19s", "PS3.18 10.6.3.3.3", "a search for a study's instances gives also the attributes of their series",
       service=SERVICE)  # fmt: skip
def study_instances(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    relational(c, sample.study_path + "/instances")
    result, answer = one(c, sample.study_path + "/instances", "")
    expect_present(c, result, answer, *SERIES, *INSTANCE)


@check("C20", "PS3.18 10.6.3.3", "includefield of a lower level is not returned", service=SERVICE, edition="2019e")
def lower_levels(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    result, answer = one(c, "/studies", f"StudyInstanceUID={sample.study}&includefield=SeriesNumber,00200013")
    for tag in ("00200011", "00200013"):
        c.expect(f"no {tag} in a study", tag not in result, result.get(tag), about=answer)
    result, answer = one(c, sample.study_path + "/series", "includefield=00200013")
    c.expect("no 00200013 in a series", "00200013" not in result, result.get("00200013"), about=answer)


@check("C22", "PS3.18 8.3.4.3", "includefield by keyword and by tag, by commas and repeated", service=SERVICE)
def included(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    study = f"StudyInstanceUID={sample.study}"
    for query in (
        "includefield=StudyDescription", "includefield=00081030", "includefield=00081030,00100030",
        "includefield=00100030%2C00081030", "includefield=00100030&includefield=StudyDescription",
    ):  # fmt: skip
        result, answer = one(c, "/studies", f"{study}&{query}")
        c.expect_equal("StudyDescription", text(result, "00081030"), "conformance test, may be deleted", about=answer)


@check("C25", "PS3.18 8.3.4.3", "includefield=all gives more than the default, and all of the default", service=SERVICE)
def everything(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    for path, query, more in (
        ("/studies", f"StudyInstanceUID={sample.study}", "00081030"),
        (sample.study_path + "/series", f"SeriesInstanceUID={sample.series}", "00080060"),
    ):
        plain, _ = one(c, path, query)
        result, answer = one(c, path, query + "&includefield=all")
        missing = sorted(set(plain) - set(result))
        c.expect("all that comes without includefield", not missing, missing, about=answer)
        c.expect(f"{more} of the same level", more in result, sorted(result), about=answer)


@check("C26", "PS3.18 8.3.4.3", "an unknown includefield is ignored", service=SERVICE)
def unknown_field(c: Context) -> None:
    result, answer = one(
        c, "/studies", f"StudyInstanceUID={c.sample('query', 'beta/CR/1').study}&includefield=00091234"
    )
    expect_present(c, result, answer, *STUDY)


@check("C27", "PS3.18 10.6.3.3", "an attribute that was matched is returned", service=SERVICE)
def matched(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    result, answer = one(c, sample.study_path + "/series", "PerformedProcedureStepStartDate=20240131")
    c.expect_equal("PerformedProcedureStepStartDate", text(result, "00400244"), "20240131", about=answer)


@check("C57", "PS3.18 10.6.4", "results as XML: a part of the Native DICOM Model for each", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def as_xml(c: Context) -> None:
    c.stored("query")
    answer = c.web.get("/studies", f"AccessionNumber={c.maker.accession}", accept=f'multipart/related; type="{XML}"')
    if answer.status == 406:
        raise NotSupported("406: no XML")
    if not c.expect_status(answer, 200):
        return
    try:
        roots = [xml(part.content) for part in answer.parts()]
    except ValueError as error:
        c.expect("multipart of XML documents", False, error, about=answer)
        return
    c.expect_equal("parts", len(roots), 5, about=answer)
    tags = {root.tag.rpartition("}")[2] for root in roots}
    c.expect_equal("root elements (PS3.19 A.1)", tags, {"NativeDicomModel"}, about=answer)
    uids = {value.text for root in roots for each in root if each.get("tag") == "0020000D" for value in each}
    c.expect_equal("studies", uids, {sample.study for sample in c.stored("query").values()}, about=answer)


@check("C62", "PS3.18 10.6.1", "the lists of OHIF: studies and series with their fields", service=SERVICE)
def ohif(c: Context) -> None:
    sample = c.sample("query", "beta/CR/1")
    query = f"limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060&StudyInstanceUID={sample.study}"
    result, answer = one(c, "/studies", query)
    expect_present(c, result, answer, "00081030", "00100010", "00080061", "00201208")
    query = "includefield=00080021%2C00080031%2C0008103E%2C00200011"
    result, answer = one(c, sample.study_path + "/series", query)
    expect_present(c, result, answer, "00200011", "00080060", "0020000E")
