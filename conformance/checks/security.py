"""Security that shows from outside: TLS, one right for all ways to a study, markup and preambles of strangers."""

from __future__ import annotations

import socket
import ssl
import warnings
from functools import partial
from urllib.parse import urlsplit

from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.context import Context
from conformance.corpus import report
from conformance.data import CT, Sample, part10, ramp

rule = partial(check, service="Security", needs="dicomweb")

MARKUP = "ZZConformance^<script>alert(1)</script>"


def _anonymous_is_refused(run: Context, sample: Sample) -> None:
    """Raise NotSupported where the server asks nobody who he is."""
    answer = run.web.request("GET", f"{sample.study_path}/metadata", anonymous=True)
    if answer.status not in (401, 403):
        raise NotSupported(f"the study's metadata are open to everybody ({answer.status})")


@rule("O03", "PS3.15 B.12", "HTTPS takes TLS 1.2 or 1.3 alone", Level.CONDITIONAL)
def tls_versions(run: Context) -> None:
    place = urlsplit(run.web.base)
    if place.scheme != "https":
        raise NotApplicable("the service is not on HTTPS")
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these are old is the point
            tls.minimum_version = tls.maximum_version = version
        tls.set_ciphers("ALL:@SECLEVEL=0")
        try:
            with socket.create_connection((place.hostname or "", place.port or 443), 10) as plain:
                tls.wrap_socket(plain, server_hostname=place.hostname).close()
            taken = True
        except (OSError, ssl.SSLError):
            taken = False
        run.expect(f"{version.name} is refused", not taken, about=f"TLS handshake with {version.name} alone")


@rule("O04", "PS3.10 7.5", "A preamble that is a program does not come back as one", Level.PRACTICE)
def preamble(run: Context) -> None:
    ds = run.maker.dataset("polyglot", "s", 1, CT, Modality="CT")
    sample = run.maker.image("polyglot", ds, ramp(8, 8, top=4000, dtype="u2"), bits_stored=12)
    sample.file = b"MZ" + bytes(58) + b"\x80\0\0\0" + bytes(64) + part10(sample.dataset)[128:]
    run.store([sample])
    if sample.refused:
        run.expect("or it is refused", True, sample.refused, about="STOW-RS of a file that begins with MZ")
        return
    answer = run.web.get(sample.path, accept='multipart/related; type="application/dicom"; transfer-syntax=*')
    if run.expect_status(answer, 200):
        for part in answer.parts():
            run.expect("a preamble that does not begin with MZ", not part.content.startswith(b"MZ"), about=answer)


@rule("O06", "PS3.18 10.4.1.1.3", "Markup in a patient's name is text wherever HTML is answered", Level.ROBUSTNESS)
def markup(run: Context) -> None:
    ds = run.maker.dataset("markup", "s", 1, "1.2.840.10008.5.1.4.1.1.88.22", Modality="SR", PatientName=MARKUP)
    sample = run.maker.sample("markup", report(ds))
    run.store([sample])
    if sample.refused:
        raise NotSupported(f"the report is refused: {sample.refused}")
    answer = run.web.get(f"{sample.path}/rendered", accept="text/html")
    if answer.status != 200:
        raise NotSupported(f"reports are not rendered as HTML ({answer.status})")
    run.expect("no script element of the object's making", b"<script>alert(1)" not in answer.body, about=answer)


@rule("O07", "PS3.18 8.11", "Frames, bulk data and rendered images need the same right as the study", Level.CONDITIONAL)
def same_right(run: Context) -> None:
    sample = next(each for each in run.stored("query").values() if not each.refused and each.pixels is not None)
    _anonymous_is_refused(run, sample)
    paths = [sample.path, f"{sample.path}/frames/1", f"{sample.path}/rendered", sample.study_path, sample.series_path,
             f"{sample.path}/bulkdata", f"{sample.path}/pixeldata", f"{sample.path}/thumbnail",
             "/studies", "/series", "/instances", "/workitems"]  # fmt: skip
    metadata = run.web.get(f"{sample.path}/metadata")
    for instance in metadata.objects() if metadata.status == 200 else []:
        paths += [str(each["BulkDataURI"]) for each in instance.values() if "BulkDataURI" in each]
    for path in dict.fromkeys(paths):
        url = path if path.startswith(("http", "/")) else f"{sample.path}/{path}"
        answer = run.web.request("GET", url, accept="*/*", anonymous=True)
        # What a server does not have it need not guard
        run.expect("401 or 403 (or 404, 405, 406, 501)", answer.status in (401, 403, 404, 405, 406, 501), about=answer)


@rule("O08", "PS3.18 8.5", "An error page does not tell who the patient is", Level.ROBUSTNESS)
def no_patient_in_errors(run: Context) -> None:
    sample = next(each for each in run.stored("query").values() if not each.refused)
    name, patient = str(sample.dataset.PatientName), str(sample.dataset.PatientID)
    other = f"{sample.study_path}/series/2.25.1/metadata"
    for path in (f"{sample.path}/frames/99999", other, f"{sample.path}/frames/x"):
        answer = run.web.get(path, accept="*/*")
        shown = answer.body.decode("utf-8", "replace")
        run.expect("an error (4xx)", 400 <= answer.status < 500, about=answer)
        run.expect("neither name nor Patient ID in it", name not in shown and patient not in shown, about=answer)
