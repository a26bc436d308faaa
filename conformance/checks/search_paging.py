"""QIDO-RS: the form of an answer, pages and their order (PS3.18 8.3.4.4 and 10.6)."""

from __future__ import annotations

from conformance.check import Level, check
from conformance.client import JSON
from conformance.context import Context, text

SERVICE = "QIDO-RS"


def own(c: Context, *more: str) -> str:
    """A query that finds the suite's own five studies, with more parameters as they stand."""
    c.stored("query")
    return "&".join((f"AccessionNumber={c.maker.accession}", *(each for each in more if each)))


def uids(c: Context, path: str, query: str, tag: str = "0020000D") -> list[str]:
    """The UIDs that a search finds, in its order."""
    return [text(each, tag) for each in c.objects(c.web.get(path, query), 200, 204)]


@check("C01", "PS3.18 10.6.3", "a search for studies is answered with a JSON array", service=SERVICE)
def studies(c: Context) -> None:
    answer = c.web.get("/studies", own(c))
    found = c.objects(answer)
    c.expect_equal("Content-Type", answer.type, JSON, about=answer)
    wanted = {sample.study for sample in c.stored("query").values()}
    c.expect_equal("the studies stored before", {text(each, "0020000D") for each in found}, wanted, about=answer)


@check("C02", "PS3.18 8.3.4.4.1", "no match is 204 without a body", service=SERVICE)
def no_match(c: Context) -> None:
    answer = c.web.get("/studies", f"StudyInstanceUID={c.maker.uid('nothing')}")
    c.expect_status(answer, 204)
    c.expect_equal("length of the body", len(answer.raw), 0, about=answer)


@check("C03", "PS3.18 8.3.4.4.1", "fewer results than matches: a Warning 299 tells how many remain", service=SERVICE)
def remaining(c: Context) -> None:
    answer = c.web.get("/studies", own(c, "limit=2"))
    c.expect_equal("results", len(c.objects(answer)), 2, about=answer)
    warning = answer.header("Warning")
    c.expect("Warning: 299 …: There are 3 additional results that can be requested",
             warning.startswith("299 ") and "3 " in warning, about=answer)  # fmt: skip


@check("C04", "PS3.18 8.3.4.4.1", "limit=0 gives no results: 204", service=SERVICE)
def limit_zero(c: Context) -> None:
    c.expect_status(c.web.get("/studies", own(c, "limit=0")), 204)


@check("C05", "PS3.18 8.3.4.4.1", "an offset at or past the end gives no results: 204", service=SERVICE)
def past_the_end(c: Context) -> None:
    for offset in (5, 1000):
        c.expect_status(c.web.get("/studies", own(c, f"offset={offset}")), 204)


@check("C06", "PS3.18 8.3.4.4.1", "the same query gives the same results in the same order", service=SERVICE)
def same_order(c: Context) -> None:
    first = uids(c, "/studies", own(c))
    c.expect("five studies", len(first) == 5, first)
    for _ in range(3):
        c.expect_equal("order", uids(c, "/studies", own(c)), first, about=f"GET /studies?{own(c)}")


@check("C07", "PS3.18 8.3.4.4.1", "pages are disjoint, and together the whole result", service=SERVICE)
def pages(c: Context) -> None:
    whole = uids(c, "/studies", own(c))
    walked = [uid for offset in (0, 2, 4) for uid in uids(c, "/studies", own(c, "limit=2", f"offset={offset}"))]
    c.expect_equal("pages of two, one after the other", walked, whole, about=f"GET /studies?{own(c)}&limit=2&offset=…")


@check("C08", "PS3.18 8.3.4.4", "limit and offset are unsigned integers, else 400", service=SERVICE)
def bad_paging(c: Context) -> None:
    for bad in ("limit=abc", "limit=-1", "offset=-1", "offset=x"):
        c.expect_status(c.web.get("/studies", own(c, bad)), 400)


@check("C06r", "PS3.18 8.3.4.4", "includefield does not change the order", Level.ROBUSTNESS, service=SERVICE)
def order_of_included(c: Context) -> None:
    plain = uids(c, "/studies", own(c))
    c.expect_equal("order", uids(c, "/studies", own(c, "includefield=00081030")), plain,
                   about=f"GET /studies?{own(c)}&includefield=00081030")  # fmt: skip
