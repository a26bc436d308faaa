"""The networking part of the conformance statement: what is negotiated, asked and answered over DIMSE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from pacs import errors
from pacs.dicom import dictionary, ups_match
from pacs.dicom.attributes import LEVELS, Attribute
from pacs.dicom.attributes import TABLE as ATTRIBUTES
from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from pacs.dimse import acceptor, negotiation, status
from pacs.dimse.commit_module import STORAGE_COMMITMENT
from pacs.dimse.operation import Service
from pacs.dimse.retrieve_identifier import PATIENT_ROOT_GET, PATIENT_ROOT_MOVE, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from pacs.dimse.services import SERVICES
from pacs.dimse.upper_layer import MAX_CONTEXTS
from pacs.server.markdown import table
from pacs.settings import Settings

NAMES: Mapping[str, str] = {
    negotiation.VERIFICATION: "Verification",
    negotiation.PATIENT_ROOT_FIND: "Patient Root Query/Retrieve Information Model - FIND",
    negotiation.STUDY_ROOT_FIND: "Study Root Query/Retrieve Information Model - FIND",
    PATIENT_ROOT_MOVE: "Patient Root Query/Retrieve Information Model - MOVE",
    STUDY_ROOT_MOVE: "Study Root Query/Retrieve Information Model - MOVE",
    PATIENT_ROOT_GET: "Patient Root Query/Retrieve Information Model - GET",
    STUDY_ROOT_GET: "Study Root Query/Retrieve Information Model - GET",
    STORAGE_COMMITMENT: "Storage Commitment Push Model",
    "1.2.840.10008.5.1.4.34.6.1": "Unified Procedure Step - Push",
    "1.2.840.10008.5.1.4.34.6.2": "Unified Procedure Step - Watch",
    "1.2.840.10008.5.1.4.34.6.3": "Unified Procedure Step - Pull",
    "1.2.840.10008.5.1.4.34.6.4": "Unified Procedure Step - Event",
    "1.2.840.10008.5.1.4.34.6.5": "Unified Procedure Step - Query",
}
_ALL_STORAGE = "every one of section 4.6"
_AS_SCU: Mapping[str, str] = {
    "verification": "`m3dicom echo`",
    "query": "`m3dicom find`",
    "get": "`m3dicom get`",
    "move": "`m3dicom move`",
    "commitment": "`m3dicom commit`, deliveries",
    "storage": "`m3dicom store`, deliveries, C-MOVE",
}
_GROUPS = {
    "verification": "Verification",
    "query": "Query",
    "get": "Retrieve (C-GET)",
    "move": "Retrieve (C-MOVE)",
    "commitment": "Storage Commitment",
    "storage": "Storage",
}
_HOW_MATCHED = {
    "UI": "single value, list of UIDs",
    "DA": "single value, range",
    "TM": "single value, range",
    "DT": "single value, range",
    "PN": "single value, wild card, by sound where agreed",
}


def overview() -> list[tuple[str, str, str, str]]:
    """Service, its SOP classes, and whether it is used and provided."""
    rows = []
    for service in SERVICES:
        name = _GROUPS.get(service.name, "Unified Procedure Step")
        classes = "; ".join(NAMES[uid] for uid in sorted(service.sop_classes)) or "every Storage SOP Class (4.6)"
        rows.append((name, classes, _AS_SCU.get(service.name, "no"), "yes"))
    return rows


def section() -> list[str]:
    """Section 4 of the statement."""
    return [
        "## 4 Networking",
        "",
        *_associations(),
        *_accepted(),
        *_requested(),
        *_statuses(),
        *_query(),
        *_storage(),
        *_syntaxes(),
        *_worklist(),
    ]


def _associations() -> list[str]:
    defaults = {field.name: field.default for field in fields(Settings)}
    return [
        "### 4.1 Association policies",
        "",
        *table(
            ("", "value"),
            [
                ("Application Context Name", "1.2.840.10008.3.1.1.1"),
                ("maximum length of a P-DATA-TF PDU received", f"{negotiation.Policy('X', (), ()).max_length} bytes"),
                ("smallest maximum length taken from a peer", f"{negotiation.MIN_PEER_LENGTH} bytes"),
                (
                    "associations accepted at one time",
                    f"{defaults['max_associations']} (`max_associations`), of one address "
                    f"{defaults['max_associations_per_host']}; {acceptor.ECHO_RESERVE} more for C-ECHO alone",
                ),
                ("presentation contexts proposed on one association", f"at most {MAX_CONTEXTS}"),
                ("asynchronous operations window", "1, 1 answered where asked; never proposed"),
                (
                    "an association without a byte",
                    f"aborted after {defaults['association_idle_s']:g} s (`association_idle_s`)",
                ),
                ("A-ASSOCIATE-RQ awaited", f"{acceptor.FIRST_PDU_S:g} s (ARTIM)"),
                ("role selection (PS3.7 D.3.3.4)", "answered for each accepted SOP class that offers roles"),
                (
                    "extended negotiation (D.3.3.5)",
                    "Storage level 2; FIND: relational, date-time, fuzzy, empty and multiple values; "
                    "GET, MOVE: relational",
                ),
                ("common extended negotiation (D.3.3.6)", "a SOP class that specialises a stored one is stored"),
                ("user identity (D.3.3.7)", "types 2 and 5, setting `dimse_identity`"),
                ("called AE title", "has to be ours"),
                ("calling AE title", "any on loopback without configured AEs; configured ones else"),
            ],
        ),
    ]


def _accepted() -> list[str]:
    message = ", ".join(f"`{uid}`" for uid in sorted(negotiation.MESSAGE_SYNTAXES))
    return [
        "### 4.2 Presentation contexts accepted",
        "",
        "The first transfer syntax proposed that is accepted is taken. Identifiers and Workitems are read and",
        "written in",
        f"{message}; instances in every transfer syntax of section 4.7.",
        "",
        *table(
            ("SOP class", "UID", "role of the caller", "operations"),
            [
                (NAMES[uid], f"`{uid}`", _roles(service), _operations(service))
                for service in SERVICES
                for uid in sorted(service.sop_classes)
            ]
            + [("Storage SOP classes", "section 4.6, and specialisations of them", _roles(SERVICES[-1]), "C-STORE")],
        ),
    ]


def _roles(service: Service) -> str:
    return " and ".join(role for role, taken in (("SCU", service.scu), ("SCP", service.scp)) if taken)


def _operations(service: Service) -> str:
    named = [field.name.replace("_", "-") for field in service.operations]
    return ", ".join(named) or "N-EVENT-REPORT (sent by us)"


def _requested() -> list[str]:
    return [
        "### 4.3 Presentation contexts proposed",
        "",
        *table(
            ("for", "SOP classes", "transfer syntaxes", "role"),
            [
                ("C-ECHO", "Verification", "Implicit VR Little Endian", "SCU"),
                ("C-FIND", "Patient Root, Study Root - FIND", "Explicit, Implicit VR Little Endian", "SCU"),
                ("C-MOVE", "Patient Root, Study Root - MOVE", "Explicit, Implicit VR Little Endian", "SCU"),
                (
                    "C-GET",
                    "Patient Root, Study Root - GET; storage classes as they are found",
                    "as the peer holds them",
                    "SCU; SCP of storage",
                ),
                (
                    "C-STORE",
                    _ALL_STORAGE,
                    "as stored; Explicit and Implicit VR Little Endian where that can be decoded",
                    "SCU",
                ),
                ("N-ACTION", "Storage Commitment Push Model", "Explicit, Implicit VR Little Endian", "SCU"),
                (
                    "N-EVENT-REPORT of commitments",
                    "Storage Commitment Push Model",
                    "Explicit, Implicit VR Little Endian",
                    "SCP",
                ),
                (
                    "N-EVENT-REPORT of Workitems",
                    "Unified Procedure Step - Event",
                    "Explicit, Implicit VR Little Endian",
                    "SCP",
                ),
            ],
        ),
    ]


def _statuses() -> list[str]:
    def rows(found: Iterable[tuple[type[errors.ArchiveError], int]]) -> list[tuple[str, str]]:
        return [(f"{code:04X}H", (kind.__doc__ or "").partition("\n")[0].rstrip(".")) for kind, code in found]

    retrieve = [
        (status.SUB_OPERATIONS_FAILED, "sub-operations complete, some failed or had a warning"),
        (status.UNABLE_TO_PERFORM_SUB_OPERATIONS, "no sub-operation succeeded"),
        (status.MOVE_DESTINATION_UNKNOWN, "the move destination is not configured"),
        (status.IDENTIFIER_MISMATCH, "the identifier does not fit the information model"),
        (status.CANCEL, "cancelled"),
    ]
    reasons = [
        (f"{code:04X}H", reason.name.replace("_", " ").lower()) for reason, code in status.FAILURE_REASONS.items()
    ]
    return [
        "### 4.4 Statuses",
        "",
        "Failures carry an Error Comment (0000,0902) in words without patient data and, where one is to blame, the",
        "Offending Element",
        "(0000,0901). C-STORE and C-FIND:",
        "",
        *table(
            ("status", "when"),
            [
                ("0000H", "success"),
                ("FF00H, FF01H", "C-FIND: a match; FF01H where an optional key was not supported"),
                *rows(status.TABLE),
                (f"{status.PROCESSING_FAILURE:04X}H", "anything that nobody foresaw"),
            ],
        ),
        "C-GET and C-MOVE:",
        "",
        *table(("status", "when"), [(f"{code:04X}H", text) for code, text in retrieve]),
        "Unified Procedure Step:",
        "",
        *table(("status", "when"), rows(status.UPS_TABLE)),
        "Failure Reason (0008,1197) of Storage Commitment:",
        "",
        *table(("reason", "when"), reasons),
    ]


def how_matched(attribute: Attribute) -> str:
    """How a key of this attribute is matched, beside universal matching and several values."""
    if attribute.tag in NEVER_MATCHED:
        return "no"
    if attribute.vr == "SQ":
        return "by the attributes of its items"
    kind = _HOW_MATCHED.get(attribute.vr, "single value, wild card" if attribute.vr in WILD else "single value")
    return kind if attribute.matchable else f"{kind}; not indexed"


NEVER_MATCHED = ("00081190",)
WILD = ("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT")


def _query() -> list[str]:
    lines = [
        "### 4.5 Query attributes",
        "",
        "The same for C-FIND and QIDO-RS. *Returned*: always (empty where unknown), when known, or when asked for.",
        "Every other",
        "attribute of the level that instances hold, those in sequences included, can be a key and be asked for,",
        "too; such keys are",
        "matched by reading the candidates that the keys below leave. Several values of a key match any of them,",
        "and all of them with multiple value matching.",
        "",
    ]
    for level in LEVELS:
        rows = [
            (
                row.keyword,
                f"`({row.tag[-8:-4]},{row.tag[-4:]})`" if "." not in row.tag else f"`{row.tag}`",
                row.vr,
                how_matched(row),
                "with its sequence" if "." in row.tag else row.returned.value,
            )
            for row in ATTRIBUTES
            if row.level is level
        ]
        lines += [f"#### {level}", "", *table(("keyword", "tag", "VR", "matching", "returned"), rows)]
    return lines


def _storage() -> list[str]:
    return [
        "### 4.6 Storage SOP Classes",
        "",
        "Stored, found and given back, over DIMSE and DICOMweb. Private SOP classes are stored over DICOMweb; over",
        "DIMSE where they are",
        "declared as specialisations of one of these.",
        "",
        *table(("SOP class", "UID"), [(name, f"`{uid}`") for uid, name in STORAGE_SOP_CLASSES.items()]),
    ]


def _syntaxes() -> list[str]:
    from pacs.dicom.encode import ENCODED

    def made(uid: str, lossy: bool) -> str:
        if uid in (negotiation.EXPLICIT_LE, negotiation.IMPLICIT_LE, negotiation.DEFLATED):
            return "yes"
        return "no" if uid not in ENCODED else "lossy, where asked by name" if lossy else "yes"

    return [
        "### 4.7 Transfer syntaxes",
        "",
        "*Stored*: accepted for C-STORE and STOW-RS. *Decoded*: can be turned into Explicit VR Little Endian,",
        "rendered and analysed.",
        "*Made*: other instances can be had in it over DICOMweb, except Implicit VR Little Endian, which is made for",
        "DIMSE peers alone.",
        "",
        *table(
            ("transfer syntax", "UID", "stored", "decoded", "made"),
            [
                (row.name, f"`{row.uid}`", "yes", "yes" if row.codec else "no", made(row.uid, row.lossy))
                for row in TRANSFER_SYNTAXES.values()
            ],
        ),
    ]


def _worklist() -> list[str]:
    def keyword(path: str) -> str:
        return ".".join(dictionary.keyword(int(tag, 16)) or tag for tag in path.split("."))

    return [
        "### 4.8 Unified Procedure Step",
        "",
        "States, required attributes and what may be changed when follow PS3.4 Tables CC.1.1-2 and CC.2.5-3.",
        "Matching keys that the index",
        "answers; any other attribute of a Workitem can be a key, too:",
        "",
        *table(("matching key", "tags"), [(keyword(path), f"`{path}`") for path in ups_match.KEPT]),
        "Events: state report, cancel requested, progress report, SCP status change, assigned (PS3.4 CC.2.4), on an",
        "association of the",
        "subscriber, on one that we open to a configured AE, and over WebSocket. Deletion locks are honoured.",
        "",
    ]
