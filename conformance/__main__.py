"""`python -m conformance --dicomweb URL --dimse AET@HOST:PORT`: judge a server, and say it in the exit code.

0: no mandatory check failed; 1: one did, or could not be carried out; 2: wrong usage, the server is not reachable, or
nothing was judged, since it has none of what was asked for.
"""

from __future__ import annotations

import argparse
import os
import re
import ssl
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import conformance.checks  # noqa: F401  (registers every check)
from conformance.ae import reachable
from conformance.check import REGISTER, Check, NoAnswer, Outcome, Result
from conformance.client import Web
from conformance.context import Context, DimseTarget, Options
from conformance.data import Maker
from conformance.html import as_html
from conformance.report import as_json, as_junit, as_markdown, line, summary
from conformance.run import run

TARGET = re.compile(r"([^@]{1,16})@([^@:]+|\[[0-9a-fA-F:]+\]):(\d+)")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        checks = REGISTER.chosen(given.only, given.service)
    except ValueError as error:
        parser.error(str(error))
    if given.list:
        print("\n".join(f"{each.id:6} {each.level:12} {each.section}: {each.title}" for each in checks))
        return 0
    if not given.dicomweb and not given.dimse:
        parser.error("give --dicomweb URL, --dimse AET@HOST:PORT, or both")
    _usable(given, parser)
    try:
        context = _context(given, parser)
        if context.web_or_none is not None:
            context.web.reachable()
            context.web.let_in()
        if context.dimse_or_none is not None:
            reachable(context.dimse)
    except (NoAnswer, OSError) as error:
        print(f"not reachable: {error}", file=sys.stderr)
        return 2
    target = " and ".join(filter(None, (given.dicomweb, given.dimse)))
    report = run(context, _possible(checks, given), target=target, keep=given.keep, progress=_progress(given.verbose))
    print(summary(report))
    for path, text in (
        (given.json, as_json), (given.junit, as_junit), (given.html, as_html),
        (given.markdown, lambda whole: as_markdown(given.title or target, whole)),
    ):  # fmt: skip
        if path:
            Path(path).write_text(text(report), encoding="utf-8")
    if context.web_or_none is not None:
        context.web.close()
    if not report.judged:
        print("nothing was judged: no check was supported and applicable", file=sys.stderr)
        return 2
    return 1 if report.broken else 0


def _usable(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends with a usage error what would only come out after the whole run, or would bring a secret into reports."""
    if given.dicomweb:
        try:
            parts = urlsplit(given.dicomweb)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or "@" in parts.netloc or parts.query or parts.fragment:
            parser.error("--dicomweb is http://HOST[:PORT]/PATH or https://…; names and passwords go to --user")
    for path in filter(None, (given.json, given.junit, given.html, given.markdown)):
        if Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
            parser.error(f"{path}: no report can be written there")


def _possible(checks: list[Check], given: argparse.Namespace) -> list[Check]:
    """The checks for the ways in that were given; all where they were named."""
    have = {name for name in ("dicomweb", "dimse") if getattr(given, name)}
    return checks if given.only else [each for each in checks if each.needs <= have]


def _progress(verbose: bool) -> Callable[[Result], None]:
    def tell(result: Result) -> None:
        if verbose or result.outcome in (Outcome.FAILED, Outcome.ERROR):
            print(line(result), flush=True)

    return tell


def _context(given: argparse.Namespace, parser: argparse.ArgumentParser) -> Context:
    web = None
    if given.dicomweb:
        tls = None
        if given.dicomweb.startswith("https:") and (given.ca or given.insecure):
            tls = ssl.create_default_context(cafile=given.ca or None)
            if given.insecure:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        headers = [tuple(each.split(":", 1)) for each in given.header]
        if any(len(each) != 2 for each in headers):
            parser.error("--header is NAME: VALUE")
        token = given.token or os.environ.get("CONFORMANCE_TOKEN", "")
        web = Web(
            given.dicomweb, token=token, user=given.user, timeout_s=given.timeout, context=tls,
            headers=[(name, value.strip()) for name, value in headers],
        )  # fmt: skip
    dimse = None
    if given.dimse:
        match = TARGET.fullmatch(given.dimse)
        if match is None:
            parser.error("--dimse is AET@HOST:PORT")
        secured = _tls_of_dimse(given) if given.dimse_tls else None
        dimse = DimseTarget(match[1], match[2].strip("[]"), int(match[3]), given.calling, secured)
    if given.listen and TARGET.fullmatch(given.listen) is None:
        parser.error("--listen is AET@HOST:PORT")
    options = Options(
        given.timeout, given.visible, tuple(filter(None, given.results.split(","))), given.listen, given.read_only_token
    )
    return Context(web, dimse, Maker(given.run or uuid.uuid4().hex[:8]), options)


def number_of_seconds(text: str) -> float:
    """A number of seconds above none. Raises ValueError, which is a usage error."""
    found = float(text)
    if not 0 < found < 1e6:
        raise ValueError(text)
    return found


def _tls_of_dimse(given: argparse.Namespace) -> ssl.SSLContext:
    """How to speak TLS to the application entity. Raises OSError for a file that cannot be read."""
    tls = ssl.create_default_context(cafile=given.ca or None)
    if given.insecure:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if given.cert:
        tls.load_cert_chain(given.cert, given.key or None)
    return tls


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description="Judge a DICOM server by the standard.")
    add = parser.add_argument
    add("--dicomweb", metavar="URL", default="", help="base URL of the DICOMweb service, e.g. https://host/dicom-web")
    add("--dimse", metavar="AET@HOST:PORT", default="", help="the DIMSE application entity")
    add("--dimse-tls", action="store_true", help="speak TLS to it; --ca and --insecure hold for it, too")
    add("--cert", metavar="FILE", default="", help="our certificate for DIMSE over TLS (PEM)")
    add("--key", metavar="FILE", default="", help="its private key, where it is not in the same file")
    add("--calling", metavar="AET", default="CONFORMANCE", help="how we call ourselves (default: %(default)s)")
    add(
        "--listen",
        metavar="AET@HOST:PORT",
        default="",
        help="where the server knows a Storage SCP: the suite listens there, for C-MOVE and commitment reports",
    )
    add("--token", default="", help="bearer token; better in CONFORMANCE_TOKEN, which no process list shows")
    add("--read-only-token", default="", help="a second token that may read only: checks what it must not do")
    add("--user", metavar="NAME:PASSWORD", default="", help="Basic authentication")
    add("--header", metavar="'NAME: VALUE'", action="append", default=[], help="goes with every request; repeatable")
    add("--ca", metavar="FILE", default="", help="certificates to trust")
    add("--insecure", action="store_true", help="do not verify the server's certificate")
    add("--only", metavar="IDS", default="", help="checks (C04), parts of the list (C), by commas")
    add("--service", metavar="NAMES", default="", help="services (QIDO-RS, …), by commas")
    add("--results", metavar="UIDS", default="", help="studies in which result objects are judged")
    add(
        "--timeout",
        metavar="S",
        type=number_of_seconds,
        default=60.0,
        help="seconds for one request (default: %(default)g)",
    )
    add(
        "--visible",
        metavar="S",
        type=number_of_seconds,
        default=30.0,
        help="seconds until stored data must be found (default: %(default)g)",
    )
    add("--run", metavar="NAME", default="", help="name of the run: the same name makes the same UIDs again")
    add("--keep", action="store_true", help="leave the stored objects at the server")
    add("--json", metavar="FILE", default="", help="write the report as JSON")
    add("--junit", metavar="FILE", default="", help="write it as JUnit XML")
    add("--html", metavar="FILE", default="", help="write it as one HTML page")
    add("--markdown", metavar="FILE", default="", help="write what was not passed as a section of a document")
    add("--title", default="", help="heading of that section")
    add("--list", action="store_true", help="say which checks there are")
    add("--verbose", "-v", action="store_true", help="tell every check, not only failures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
