"""docs/conformance-statement.md: the DICOM Conformance Statement in the order of PS3.2's template, out of the tables.

What is claimed stands in the tables that the code itself reads; tests/system/test_conformance_statement.py asks a
running server for every line.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from dicomweb import routes
from pacs import uids
from pacs.dicom import charsets
from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.server import statement_dimse, statement_web
from pacs.server.markdown import table
from pacs.settings import Settings

SOURCES = Path(__file__).resolve().parents[2]
EDITION = "2025"


RESULT_FORM_CLASSES: Mapping[str, tuple[str, ...]] = {
    "LABELMAP": ("1.2.840.10008.5.1.4.1.1.66.7",),
    "OBJ": ("1.2.840.10008.5.1.4.1.1.104.4", "1.2.840.10008.5.1.4.1.1.104.5"),
}


def page() -> str:
    """The whole statement."""
    version = tomllib.loads((SOURCES / "pyproject.toml").read_text())["project"]["version"]
    lines = [
        "# DICOM Conformance Statement",
        "",
        f"m3DICOM {version}, an archive and analysis extension that stands beside a hospital's PACS. This page is",
        "made from the",
        "tables that the program itself reads (`make docs`), and a test asks a running server for every line of it.",
        "It follows",
        f"the template of PS3.2, {EDITION} editions. Sections that concern nothing here (media interchange,",
        "printing, workstations)",
        "say so.",
        "",
        "## 1 Overview",
        "",
        "m3DICOM receives composite instances by C-STORE and STOW-RS, keeps them as they came, answers queries and",
        "retrievals over",
        "DIMSE and DICOMweb, performs and offers Unified Procedure Steps, and gives results back to other systems.",
        "",
        "### 1.1 Network services",
        "",
        *table(("service", "SOP classes", "as SCU", "as SCP"), statement_dimse.overview()),
        "### 1.2 DICOMweb services",
        "",
        *table(("service", "PS3.18", "user agent", "origin server"), statement_web.overview()),
        "### 1.3 Media interchange",
        "",
        "None. Part 10 files are imported from and exported to folders (`m3dicom import`, `m3dicom get`); no",
        "DICOMDIR is read or",
        "written and no application profile of PS3.11 is claimed.",
        "",
        "## 2 Introduction",
        "",
        "For integrators and those who buy: what is asked of a peer, and what it may ask. The standard's own words",
        "are used; its",
        "parts are cited as PS3.n. Conformance alone does not make two systems work together; test them with each",
        "other. Behaviour",
        "that the standard leaves open is told in [dimse.md](dimse.md), [peers.md](peers.md),",
        "[queries.md](queries.md),",
        "[tasks.md](tasks.md) and [forwarding.md](forwarding.md); the settings named here in",
        "[settings.md](settings.md).",
        "",
        "## 3 Implementation model",
        "",
        "One server holds one Application Entity with a DIMSE door (plain, TLS or both; `dimse_processes` serve its",
        "associations) and an HTTP door.",
        "Both lead into the",
        "same archive: what one stores the other finds, and a Workitem made at one door is seen and changed through",
        "the other.",
        "A worker, in the same process or on other machines, performs Workitems and stores their results.",
        "",
        *table(
            ("Application Entity", "default title", "default doors", "functions"),
            [
                (
                    "M3DICOM",
                    f"`{_default('aet')}` (`aet`)",
                    f"DIMSE `{_default('dimse')}`, HTTP `{_default('http')}`",
                    "acceptor and requestor of associations, origin server, user agent for STOW-RS",
                ),
            ],
        ),
        *statement_dimse.section(),
        *statement_web.section(),
        *_content(),
        *_character_sets(),
        *_security(),
        *_configuration(),
        *_not_supported(),
    ]
    return "\n".join(_wrapped(lines)).rstrip("\n") + "\n"


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    """The lines, those of paragraphs filled anew."""
    paragraph: list[str] = []
    for line in lines:
        if line and line[0] not in "#|":
            paragraph.append(line)
            continue
        if paragraph:
            yield from textwrap.wrap(" ".join(paragraph), 120, break_long_words=False, break_on_hyphens=False)
            paragraph = []
        yield line


def _default(name: str) -> object:
    return next(field.default for field in fields(Settings) if field.name == name)


def _content() -> list[str]:
    return [
        "## 6 What is kept of an instance",
        "",
        "Level 2 (full) storage: every attribute, private ones included, and the data set's bytes as they came, in",
        "the transfer syntax",
        "they came in. No attribute is coerced on arrival. Corrections of patient and study data are kept beside the",
        "bytes and applied to",
        "what leaves ([corrections.md](corrections.md)); such an instance carries an Original Attributes Sequence",
        "(0400,0561).",
        "Digital signatures are kept, neither verified nor made.",
        "",
        *table(
            ("what arrives", "what becomes of it"),
            [
                ("the same content again", "success, nothing is stored twice"),
                (
                    "other content under a known SOP Instance UID",
                    f"setting `other_content`: `{_default('other_content')}` by default; `quarantine` and `replace` "
                    "are the others",
                ),
                ("a rejection note (PS3.16 CID 7011)", "hides what it rejects, setting `rejection_notes`"),
                (
                    "an instance larger than `max_object_bytes`",
                    f"refused; {_default('max_object_bytes')} bytes by default",
                ),
                ("UIDs that break PS3.5 9.1", "refused; leading zeros in a component are tolerated"),
                ("File Meta Information that contradicts the data set", "refused by STOW-RS with A900H"),
            ],
        ),
        "Results are made by plug-ins ([plug-ins.md](plug-ins.md)) as instances of these SOP classes; what is in each",
        "is in [results.md](results.md), and in each plug-in's model card under [model-cards](model-cards):",
        "",
        *table(("SOP class of results", "UID", "form"), _created()),
        "The UIDs of what is made here are UUID-derived, under 2.25 (PS3.5 B.2). The coding scheme designator",
        "99M3DICOM names codes of our own. Every result holds one private element, (0099,xx01) UT under the private",
        "creator `m3DICOM PROVENANCE 1`: a JSON text on what made it, without identity of the patient.",
        "",
    ]


def _created() -> list[tuple[str, str, str]]:
    """The SOP classes of results, and where they are more or other than the standard's own form (PS3.2 3.11)."""
    from analysis.results.checks.modules import IODS

    model = "Standard Extended: Tracking ID and UID, Primary Anatomic Structure, Related Series"
    forms = {"1.2.840.10008.5.1.4.1.1.104.3": model}
    for form, classes in RESULT_FORM_CLASSES.items():
        for uid in classes:
            forms[uid] = f"where `result_forms` asks for {form}" + (f". {model}" if ".104." in uid else "")
    return [
        (STORAGE_SOP_CLASSES[uid], f"`{uid}`", forms.get(uid, "Standard Extended (private element)")) for uid in IODS
    ]


def _character_sets() -> list[str]:
    terms = charsets.DEFINED_TERMS
    return [
        "## 7 Character sets",
        "",
        "Text is read in every Specific Character Set (0008,0005) of PS3.3 C.12.1.1.2, with and without code",
        "extensions:",
        "",
        *table(
            ("without code extensions", "with code extensions"),
            [
                (
                    ", ".join(t for t in terms if not t.startswith("ISO 2022")),
                    ", ".join(t for t in terms if t.startswith("ISO 2022")),
                ),
            ],
        ),
        "Without a declared character set, bytes beyond ISO-IR 6 are read as ISO_IR 100. What is stored keeps its",
        "own character set. Answers",
        "to C-FIND are in the character set of the request where it is a single-byte one that can say them, else in",
        "ISO_IR 192; DICOM JSON",
        "and XML are in UTF-8. Data sets made here are in ISO_IR 192 or the default repertoire.",
        "",
    ]


def _security() -> list[str]:
    return [
        "## 8 Security",
        "",
        *table(
            ("profile of PS3.15", "support"),
            [
                (
                    "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection (B.12)",
                    "DIMSE, both directions; see [dimse.md](dimse.md#tls)",
                ),
                ("Non-Downgrading BCP 195 (B.10 and its successor)", "the TLS door of DIMSE speaks nothing else"),
                ("HTTPS", "by a proxy in front, setting `behind_tls_proxy`"),
                ("User Identity Negotiation (B.4 to B.7)", "username and passcode, JWT: setting `dimse_identity`"),
                (
                    "Audit Trail (A.5)",
                    "stores, deletions, corrections, transfers, accesses (once a principal, study and quarter of an "
                    "hour), commitments and Workitems are recorded in the database; they are not sent by syslog",
                ),
                ("Application Level Confidentiality (E)", "none: nothing is de-identified here"),
                ("Digital Signatures (C)", "kept in what is stored, neither verified nor made"),
            ],
        ),
        "A caller of DIMSE is known by its AE title and, where configured, address and certificate; a caller of HTTP",
        "by a bearer token or",
        "the session of a browser. Rights: "
        + ", ".join(f"`{right.value}`" for right in statement_web.rights())
        + ". Without configured AEs the DIMSE door opens on loopback only.",
        "",
    ]


def _configuration() -> list[str]:
    shown = (
        "aet",
        "dimse",
        "dimse_tls",
        "http",
        "public_url",
        "max_associations",
        "max_associations_per_host",
        "association_idle_s",
        "commitment_hours",
        "event_hours",
        "stable_after_s",
    )
    by_name = {field.name: field for field in fields(Settings)}
    rows = [(f"`{name}`", f"`{by_name[name].default}`", by_name[name].metadata["doc"]) for name in shown]
    return [
        "## 9 Configuration",
        "",
        "Remote AEs are `[[aes]]` tables: title, host, port, rights, addresses, TLS. Every setting:",
        "[settings.md](settings.md).",
        "",
        *table(("setting", "default", "meaning"), rows),
        f"Implementation Class UID `{uids.IMPLEMENTATION_CLASS_UID}`, Implementation Version Name",
        f"`{uids.IMPLEMENTATION_VERSION_NAME}`.",
        "",
    ]


def _not_supported() -> list[str]:
    rows = [(f"{each.service} (PS3.18 {each.section})", each.why) for each in routes.UNSUPPORTED]
    rows += [
        (
            "de-identification on retrieval (`anonymize` of WADO-URI)",
            "nothing is de-identified here; such a request is refused",
        ),
        ("Modality Worklist, MPPS, Instance Availability Notification, Print", "the RIS's and the workstation's"),
        ("C-GET and C-MOVE by Instance and Frame Level Retrieve (PS3.4 Y, Z)", "frames are served by WADO-RS"),
        ("asynchronous operations", "one operation at a time is agreed"),
        (
            "timezone query adjustment, enhanced multi-frame conversion (PS3.4 C.5)",
            "answered 0 in extended negotiation",
        ),
    ]
    return ["## 10 What is not supported", "", *table(("what", "why"), rows)]
