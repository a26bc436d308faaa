"""QIDO-RS: what matches what (PS3.4 C.2.2.2, PS3.18 8.3.4 and Table 10.6.1-5): part C."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from conformance.check import Level, NotSupported, check
from conformance.client import Answer
from conformance.context import Context, text
from conformance.corpus import JAPANESE, REQUESTED
from conformance.multipart import join, related

SERVICE = "QIDO-RS"


def ask(c: Context, query: str, path: str = "/studies") -> Answer:
    """A search among the suite's own five studies."""
    c.stored("query")
    return c.web.get(path, f"AccessionNumber={c.maker.accession}&{query}")


def names(c: Context, answer: Answer) -> list[str]:
    """The short names of the studies in an answer, in alphabetical order."""
    known = {sample.study: name.split("/")[0] for name, sample in c.stored("query").items()}
    return sorted({known.get(text(each, "0020000D"), "?") for each in c.objects(answer, 200, 204)})


def decodes(c: Context) -> bool:
    """Whether the server understands percent-encoded values at all, which B07 judges."""

    def find() -> bool:
        c.stored("query")
        hexed = "".join(f"%{ord(letter):02X}" for letter in c.maker.accession)
        answer = c.web.get("/studies", f"AccessionNumber={hexed}")
        return answer.status == 200 and len(answer.objects()) == 5

    return bool(c.fact("decodes queries", find))


def expect_studies(c: Context, query: str, wanted: Iterable[str], path: str = "/studies") -> None:
    """Judge which of the five studies a query finds; where only its percent-encoding was not understood, say so."""
    answer = ask(c, query, path)
    seen = names(c, answer)
    note = ""
    if seen != sorted(wanted) and "%" in query and not decodes(c):
        note = " (this server does not decode percent-encoding, see B07; its matching may be right)"
    c.expect(f"studies: {sorted(wanted)}", seen == sorted(wanted), f"{seen}{note}", about=answer)


ALL = ("alpha", "beta", "delta", "epsilon", "gamma")


@check("C29", "PS3.18 Table 10.6.1-5", "each required key of studies filters", service=SERVICE)
def study_keys(c: Context) -> None:
    samples = c.stored("query")
    alpha = samples["alpha/CT/1"].dataset
    for query in (
        "StudyDate=20240105", "StudyTime=080000", "ModalitiesInStudy=SR", "PatientName=ZZConformance%5EAlpha%5EAnn",
        f"PatientID={alpha.PatientID}", f"StudyInstanceUID={alpha.StudyInstanceUID}", "StudyID=ZZA1",
    ):  # fmt: skip
        expect_studies(c, query, ["alpha"])
    expect_studies(c, "ReferringPhysicianName=ZZRef%5EGamma", ["gamma"])
    expect_studies(c, "StudyID=ZZNONE", [])


@check("C30", "PS3.18 Table 10.6.1-5", "each required key of series filters", service=SERVICE)
def series_keys(c: Context) -> None:
    beta = c.sample("query", "beta/CR/1")
    for query in (
        "Modality=CR", f"SeriesInstanceUID={beta.series}", "SeriesNumber=7", "PerformedProcedureStepStartDate=20240131",
        "PerformedProcedureStepStartTime=095900", "RequestAttributesSequence.RequestedProcedureID=ZZRP1",
        f"RequestAttributesSequence.ScheduledProcedureStepID={REQUESTED}",
    ):  # fmt: skip
        answer = c.web.get(beta.study_path + "/series", query)
        c.expect_equal("series", [text(o, "0020000E") for o in c.objects(answer)], [beta.series], about=answer)
    for query in ("Modality=MR", "SeriesNumber=8", "RequestAttributesSequence.RequestedProcedureID=ZZNONE"):
        answer = c.web.get(beta.study_path + "/series", query)
        c.expect_equal("series", c.objects(answer, 200, 204), [], about=answer)


@check("C31", "PS3.18 Table 10.6.1-5", "each required key of instances filters", service=SERVICE)
def instance_keys(c: Context) -> None:
    two = c.sample("query", "alpha/CT/2")
    for query in (f"SOPInstanceUID={two.instance}", "InstanceNumber=2"):
        answer = c.web.get(two.series_path + "/instances", query)
        c.expect_equal("instances", [text(o, "00080018") for o in c.objects(answer)], [two.instance], about=answer)
    answer = c.web.get(two.series_path + "/instances", f"SOPClassUID={two.sop_class}")
    c.expect_equal("instances of the class", len(c.objects(answer)), 3, about=answer)
    answer = c.web.get(two.series_path + "/instances", "InstanceNumber=9")
    c.expect_equal("instances", c.objects(answer, 200, 204), [], about=answer)


@check("C32", "PS3.18 8.3.4.1", "a key by keyword and by tag is the same", service=SERVICE)
def keyword_or_tag(c: Context) -> None:
    pid = c.sample("query", "beta/CR/1").dataset.PatientID
    for query in (f"PatientID={pid}", f"00100020={pid}"):
        expect_studies(c, query, ["beta"])


@check("C33", "PS3.18 8.3.4.1", "a tag in lower-case digits is understood", Level.ROBUSTNESS, service=SERVICE)
def lower_case_tag(c: Context) -> None:
    expect_studies(c, "0020000d=" + c.sample("query", "beta/CR/1").study, ["beta"])


@check("C34", "PS3.18 8.3.4.1.1", "several keys: all have to match", service=SERVICE)
def conjunction(c: Context) -> None:
    expect_studies(c, "ModalitiesInStudy=CT&StudyDate=20240115", ["delta"])
    expect_studies(c, "ModalitiesInStudy=CR&StudyDate=20240115", [])


@check("C35", "PS3.18 8.3.4.1", "the same key twice: 400", Level.ROBUSTNESS, service=SERVICE)
def key_twice(c: Context) -> None:
    c.expect_status(ask(c, "StudyDate=20240115&StudyDate=20240131"), 400)


@check("C36", "PS3.4 C.2.2.2.1", "single value matching is case-sensitive, but for names", service=SERVICE)
def case(c: Context) -> None:
    pid = str(c.sample("query", "gamma/MR/1").dataset.PatientID)
    expect_studies(c, f"PatientID={pid}", ["gamma"])
    expect_studies(c, f"PatientID={pid.lower()}", [])


@check("C37", "PS3.4 C.2.2.2.4", "* alone is universal: it finds also the study without a name", service=SERVICE)
def universal(c: Context) -> None:
    for star in ("*", "%2A", "%2a"):
        expect_studies(c, f"PatientName={star}", ALL)


@check("C37e", "PS3.4 C.2.2.2.3", "a key without a value is universal matching", service=SERVICE)
def empty_key(c: Context) -> None:
    expect_studies(c, "PatientName=", ALL)
    expect_studies(c, "StudyDate=", ALL)


@check("C38", "PS3.4 C.2.2.2.4", "* stands for any characters, ? for one", service=SERVICE)
def wildcards(c: Context) -> None:
    for query, wanted in (
        ("StudyID=ZZ?1", ["alpha", "beta", "delta", "epsilon"]), ("StudyID=ZZB*", ["beta"]), ("StudyID=*B1", ["beta"]),
        ("StudyID=Z*B?", ["beta"]), ("StudyID=ZZB1*", ["beta"]), ("StudyID=ZZB1?", []), ("StudyID=zzb*", []),
    ):  # fmt: skip
        expect_studies(c, query, wanted)


@check("C38p", "PS3.4 C.2.2.2.4", "* and ? in names, which may be matched in ways of the server's own",
       Level.ROBUSTNESS, service=SERVICE)  # fmt: skip
def wild_names(c: Context) -> None:
    for query, wanted in (
        ("PatientName=ZZConf*%5EBeta", ["beta"]), ("PatientName=ZZConformance%5E?eta", ["beta"]),
        ("PatientName=ZZConformance%5E%3Feta*", ["beta"]), ("PatientName=ZZConformance*", ["alpha", "beta", "gamma"]),
        ("PatientName=*Gamma", ["gamma"]), ("PatientName=ZZConformance%5E?", []),
    ):  # fmt: skip
        expect_studies(c, query, wanted)


@check("C39", "PS3.4 C.2.2.2.1", "names in another case: found in both forms, or in neither", service=SERVICE)
def name_case(c: Context) -> None:
    wild, single = (
        names(c, ask(c, f"PatientName={value}")) for value in ("zzconformance%5Ebeta*", "zzconformance%5Ebeta")
    )
    c.expect("a consistent rule: beta in both, or in neither", wild == single and wild in ([], ["beta"]),
             (wild, single), about="GET /studies?PatientName=zzconformance^beta*")  # fmt: skip


@check("C40", "PS3.4 C.2.2.2.4", "code strings take wildcards", service=SERVICE)
def wild_code(c: Context) -> None:
    expect_studies(c, "ModalitiesInStudy=C*", ["alpha", "beta", "delta"])
    expect_studies(c, "ModalitiesInStudy=%3FR", ["alpha", "beta", "gamma"])


@check("C41", "PS3.4 C.2.2.2.4", "UIDs and dates take no wildcards", service=SERVICE)
def no_wildcards(c: Context) -> None:
    beta = c.sample("query", "beta/CR/1")
    for query in (f"StudyInstanceUID={beta.study[:-1]}*", "StudyDate=202401*"):
        answer = ask(c, query)
        c.expect("400, or no match", answer.status in (400, 204) or (answer.status == 200 and not answer.objects()),
                 about=answer)  # fmt: skip


@check("C42", "PS3.4 C.3.4", "Modalities in Study matches any one; the result lists all", service=SERVICE)
def modalities(c: Context) -> None:
    answer = ask(c, "ModalitiesInStudy=SR")
    c.expect_equal("studies", names(c, answer), ["alpha"], about=answer)
    listed = [sorted(each.get("00080061", {}).get("Value", [])) for each in c.objects(answer)]
    c.expect_equal("ModalitiesInStudy", listed, [["CT", "SR"]], about=answer)


@check("C43", "PS3.4 C.2.2.2.5.1", "date ranges, closed and open, include their ends", service=SERVICE)
def dates(c: Context) -> None:
    for query, wanted in (
        ("20240105-20240131", ["alpha", "beta", "delta"]), ("-20240105", ["alpha", "epsilon"]),
        ("20240131-", ["beta", "gamma"]), ("20240115-20240115", ["delta"]), ("20240202-20240301", []),
    ):  # fmt: skip
        expect_studies(c, f"StudyDate={query}", wanted)


@check("C44", "PS3.4 C.2.2.2.5.2", "time ranges, closed and open, include their ends", service=SERVICE)
def times(c: Context) -> None:
    for query, wanted in (
        ("080000-120000", ["alpha", "beta", "gamma"]), ("-0800", ["alpha"]), ("143000-", ["delta", "epsilon"]),
        ("10-11", ["beta"]), ("100000.500000-100000.500000", ["beta"]),
    ):  # fmt: skip
        expect_studies(c, f"StudyTime={query}", wanted)


@check(
    "C45",
    "PS3.4 C.2.2.2.5",
    "date and time ranges together: each for itself, or as one span if so claimed",
    service=SERVICE,
)
def dates_and_times(c: Context) -> None:
    answer = ask(c, "StudyDate=20240105-20240201&StudyTime=080000-120000")
    # As one span from the 5th 08:00 to the 1st 12:00 the study of the 15th at 14:30 belongs to it.
    found = names(c, answer)
    c.expect("alpha, beta and gamma (and delta where date and time are combined)",
             "epsilon" not in found and {"alpha", "beta", "gamma"} <= set(found), found, about=answer)  # fmt: skip


@check("C45c", "PS3.18 8.3.4.1", "a date and a time range together are one span", service=SERVICE, edition="2023a")
def combined(c: Context) -> None:
    # "Combined date-time matching shall be performed": from the 5th 08:00 to the 1st 12:00, so also the 15th at 14:30.
    expect_studies(c, "StudyDate=20240105-20240201&StudyTime=080000-120000", ["alpha", "beta", "delta", "gamma"])
    expect_studies(c, "StudyDate=20240105-20240201&StudyTime=083000-115900", ["beta", "delta"])


@check("C46", "PS3.18 8.3.4.1", "what is no date: 400", Level.ROBUSTNESS, service=SERVICE)
def bad_dates(c: Context) -> None:
    for value in ("2024-01-01", "-", "20241301", "yesterday"):
        c.expect_status(ask(c, f"StudyDate={value}"), 400)


@check("C47", "PS3.4 C.2.2.2.2", "a list of UIDs, by comma or backslash: any of them", service=SERVICE)
def uid_list(c: Context) -> None:
    a, b = c.sample("query", "alpha/CT/1").study, c.sample("query", "beta/CR/1").study
    for separator in (",", "%2C", "%5C"):
        expect_studies(c, f"StudyInstanceUID={a}{separator}{b}", ["alpha", "beta"])


@check("C48", "PS3.18 8.3.4.1", "keys within a sequence, by keywords and by tags", service=SERVICE)
def sequence(c: Context) -> None:
    beta = c.sample("query", "beta/CR/1")
    for key in ("RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"):
        answer = c.web.get(beta.study_path + "/series", f"{key}={REQUESTED}")
        c.expect_equal("series", [text(o, "0020000E") for o in c.objects(answer)], [beta.series], about=answer)
        answer = c.web.get(beta.study_path + "/series", f"{key}=ZZNONE")
        c.expect_equal("series", c.objects(answer, 200, 204), [], about=answer)


def optional(c: Context, option: str, section: str) -> Answer:
    """The answer with an option of matching, judged: literal results, and a Warning unless it is supported."""
    answer = ask(c, f"{option}=true&StudyID=ZZB1")
    c.expect_equal(f"studies (exact key, {section})", names(c, answer), ["beta"], about=answer)
    return answer


@check("C49", "PS3.18 8.3.4.2", "fuzzymatching: supported, or a Warning 299 that names it", service=SERVICE)
def fuzzy(c: Context) -> None:
    answer = optional(c, "fuzzymatching", "8.3.4.2")
    near = [
        ask(c, f"fuzzymatching=true&PatientName={name}")
        for name in ("beta%20zzconformance", "zzconformance%20beta", "bet", "ZZConfermance%5EBeta", "beta*")
    ]
    found = [names(c, each) for each in near]
    warned = all("299" in each.header("Warning") and "fuzzymatching" in each.header("Warning") for each in near)
    c.expect("a name in another order, or its beginning, or alike in sound, finds it; or Warning: 299 "
             "that fuzzymatching is not supported", warned or ["beta"] in found, found, about=near[0])  # fmt: skip
    c.expect("the same Warning, or none, for every request", bool(answer.header("Warning")) == warned, about=answer)


@check("C51", "PS3.18 8.3.4.5", "emptyvaluematching: supported, or a Warning 299 that names it", service=SERVICE,
       edition="2023a")  # fmt: skip
def empty_values(c: Context) -> None:
    optional(c, "emptyvaluematching", "8.3.4.5")
    answer = ask(c, 'emptyvaluematching=true&PatientName=""'.replace('"', "%22"))
    warned = "299" in answer.header("Warning") and "emptyvaluematching" in answer.header("Warning")
    c.expect('only the study without a name, or Warning: 299 … The emptyvaluematching parameter is not supported',
             warned or names(c, answer) == ["delta"], about=answer)  # fmt: skip


@check("C53", "PS3.18 8.3.4.6", "multiplevaluematching: supported, or a Warning 299 that names it", service=SERVICE,
       edition="2023a")  # fmt: skip
def multiple_values(c: Context) -> None:
    optional(c, "multiplevaluematching", "8.3.4.6")
    answer = ask(c, "multiplevaluematching=true&ModalitiesInStudy=CT%5CSR")
    warned = "299" in answer.header("Warning") and "multiplevaluematching" in answer.header("Warning")
    c.expect("only the study with both, or Warning: 299 … The multiplevaluematching parameter is not supported",
             warned or names(c, answer) == ["alpha"], about=answer)  # fmt: skip


@check("C55", "PS3.18 8.3.4.2", "fuzzymatching=maybe: 400", Level.ROBUSTNESS, service=SERVICE)
def maybe(c: Context) -> None:
    c.expect_status(ask(c, "fuzzymatching=maybe"), 400)


@check("C56", "PS3.4 C.2.2.2", "a name in UTF-8 finds an object in another character set", service=SERVICE)
def other_charset(c: Context) -> None:
    expect_studies(c, f"PatientName={quote(JAPANESE)}", ["epsilon"])


@check("C56w", "PS3.4 C.2.2.2.4", "a part of a name in UTF-8 finds an object in another character set",
       Level.ROBUSTNESS, service=SERVICE)  # fmt: skip
def other_charset_in_part(c: Context) -> None:
    expect_studies(c, "PatientName=*%E5%B1%B1%E7%94%B0*", ["epsilon"])
    expect_studies(c, "PatientName=ZZYamada*", ["epsilon"])


@check("C59", "PS3.18 10.5.3", "what a store answered with 200 is found at once", Level.PRACTICE, service=SERVICE)
def at_once(c: Context) -> None:
    for number in range(3):
        sample = c.maker.sample(f"once{number}", c.maker.dataset(f"once{number}", "1", 1))
        c.studies.add(sample.study)
        body = join([("Content-Type: application/dicom", sample.file)])
        if c.web.post("/studies", body, related("application/dicom")).status != 200:
            raise NotSupported("the store was not answered with 200")
        c.expect_status(c.web.get("/studies", f"StudyInstanceUID={sample.study}"), 200)


@check("C60", "PS3.18 10.6", "a study whose last instance was deleted is not found", Level.PRACTICE, service=SERVICE)
def deleted(c: Context) -> None:
    sample = c.maker.sample("gone", c.maker.dataset("gone", "1", 1))
    c.store([sample])
    if c.web.request("DELETE", sample.path).status not in (200, 202, 204):
        raise NotSupported("DELETE of an instance is not offered (the standard has none)")
    c.expect_status(c.web.get("/studies", f"StudyInstanceUID={sample.study}"), 204)
    c.expect_status(c.web.get(sample.path, accept="*/*"), 404, 410)
