"""An analysis as a Unified Procedure Step: plug-in, parameters, inputs and outputs in a Workitem and out of it again.

The plug-in is the Scheduled Workitem Code, its parameters are content items (PS3.3 section 10.2.1) in the Scheduled
Processing Parameters Sequence, its inputs and outputs are Referenced Instances and Access macros (PS3.3 10.10).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pacs.dicom import ups
from pacs.dicom.ups import Attributes, code, element
from pacs.errors import InvalidInput

CODE_SCHEME = "99M3DICOM"
MOST_LO = 64  # characters (PS3.5 section 6.2)

VALUE_TYPE = "0040A040"
CONCEPT_NAME_CODE_SEQUENCE = "0040A043"
TEXT_VALUE = "0040A160"
FLOATING_POINT_VALUE = "0040A161"
NUMERIC_VALUE = "0040A30A"
UNITS_CODE_SEQUENCE = "004008EA"
TYPE_OF_INSTANCES = "0040E020"
ACCESSION_NUMBER = "00080050"
REFERENCED_REQUEST_SEQUENCE = "0040A370"

# What a Workitem of ours takes over from an input instance: the patient, as the instance has it.
PATIENT_TAGS = (ups.PATIENT_NAME, ups.PATIENT_ID, "00100030", "00100040", "00101002")


@dataclass(frozen=True)
class References:
    """Instances of one series; without `instances` all of the series, without a series all of the study."""

    study_instance_uid: str
    series_instance_uid: str | None = None
    instances: tuple[tuple[str, str], ...] = ()  # (SOP Class UID, SOP Instance UID)


@dataclass(frozen=True)
class Parameter:
    """One parameter as it is written: `unit` is a UCUM code, "1" where there is none."""

    name: str
    title: str
    value: Any
    unit: str = "1"


def build(
    *,
    plugin: str,
    title: str,
    label: str,
    parameters: Sequence[Parameter],
    inputs: Sequence[References],
    patient: Mapping[str, Any],
    now: float,
    priority: str = "MEDIUM",
    replaces: str | Sequence[str] | None = None,
    comments: str = "",
) -> Attributes:
    """A SCHEDULED Workitem for one run of a plug-in, ready for `ups.created`.

    `patient` is the DICOM JSON of an input instance; patient and order attributes are taken from it. `replaces`
    names the Workitems whose results this one supersedes; `comments` say what a person should know of it.
    """
    study = inputs[0].study_instance_uid if inputs else ""
    request = {
        ups.STUDY_INSTANCE_UID: element("UI", study),
        ACCESSION_NUMBER: patient.get(ACCESSION_NUMBER, element("SH")),
        "00080051": element("SQ"),  # Issuer of Accession Number Sequence
        "00321060": element("LO"),  # Requested Procedure Description
        "00321064": element("SQ"),  # Requested Procedure Code Sequence
        "00401001": element("SH"),  # Requested Procedure ID
    }
    attributes: Attributes = {
        ups.STUDY_INSTANCE_UID: element("UI", study) if study else element("UI"),
        ups.START_DATETIME: element("DT", ups.dt(now)),
        ups.WORKITEM_CODE_SEQUENCE: element("SQ", code(plugin, CODE_SCHEME, long_string(title) or plugin)),
        ups.INPUT_INFORMATION_SEQUENCE: element("SQ", *map(reference_item, inputs)),
        ups.INPUT_READINESS_STATE: element("CS", "READY"),
        ups.PROCEDURE_STEP_STATE: element("CS", ups.State.SCHEDULED),
        ups.PRIORITY: element("CS", priority),
        ups.WORKLIST_LABEL: element("LO", "M3DICOM"),
        ups.LABEL: element("LO", long_string(label) or plugin),
        ups.PARAMETERS_SEQUENCE: element("SQ", *map(content_item, parameters)),
        REFERENCED_REQUEST_SEQUENCE: element("SQ", dict(sorted(request.items()))),
    }
    attributes |= {tag: patient[tag] for tag in PATIENT_TAGS if tag in patient}
    if comments:
        attributes[ups.COMMENTS] = element("LT", comments[:10240])
    if replaces:
        named = [replaces] if isinstance(replaces, str) else replaces
        attributes[ups.REPLACED_PROCEDURE_STEP_SEQUENCE] = element("SQ", *map(_replaced, named))
    return dict(sorted(attributes.items()))


def content_item(parameter: Parameter) -> Attributes:
    """A parameter as a NUMERIC or TEXT content item; what is neither number nor text is JSON in a TEXT."""
    meaning = long_string(parameter.title) or parameter.name
    item = {CONCEPT_NAME_CODE_SEQUENCE: element("SQ", code(parameter.name, CODE_SCHEME, meaning))}
    if isinstance(parameter.value, int | float) and not isinstance(parameter.value, bool):
        ucum = long_string(parameter.unit) or "1"
        unit = "no units" if ucum == "1" else ucum
        item |= {
            VALUE_TYPE: element("CS", "NUMERIC"),
            NUMERIC_VALUE: element("DS", _decimal(parameter.value)),
            UNITS_CODE_SEQUENCE: element("SQ", code(ucum, "UCUM", unit)),
        }
        if float(_decimal(parameter.value)) != parameter.value:
            item[FLOATING_POINT_VALUE] = element("FD", parameter.value)  # DS has 16 characters, a double needs more
    else:
        text = parameter.value if isinstance(parameter.value, str) else json.dumps(parameter.value)
        item |= {VALUE_TYPE: element("CS", "TEXT"), TEXT_VALUE: element("UT", text)}
    return dict(sorted(item.items()))


def long_string(text: str) -> str:
    """`text` as LO can carry it (PS3.5 section 6.2): one value of at most 64 characters, none of them for control."""
    plain = "".join("/" if each == "\\" else each if each.isprintable() else " " for each in text)
    return " ".join(plain.split())[:MOST_LO].rstrip()


def _decimal(number: float) -> float | int:
    """`number` as DS can carry it: at most 16 characters (PS3.5 section 6.2)."""
    for digits in range(17, 8, -1):
        text = f"{number:.{digits}g}"
        if len(text) <= 16:
            return int(text) if isinstance(number, int) and text.lstrip("-").isdigit() else float(text)
    return float(f"{number:.8g}")


def parameters_of(attributes: Mapping[str, Any], tag: str = ups.PARAMETERS_SEQUENCE) -> dict[str, Any]:
    """The parameters of ours by name: numbers and texts. Raises InvalidInput on an item without name or value."""
    found: dict[str, Any] = {}
    for item in ups.items(attributes, tag):
        concept = next(iter(ups.items(item, CONCEPT_NAME_CODE_SEQUENCE)), {})
        name, _ = ups.code_value(concept)
        kind = ups.value(item, VALUE_TYPE)
        tags = (FLOATING_POINT_VALUE, NUMERIC_VALUE) if kind == "NUMERIC" else (TEXT_VALUE,)
        raw = next((each for tag in tags if (each := ups.value(item, tag)) is not None), None)
        if not name or (raw is None and kind == "NUMERIC") or kind not in ("NUMERIC", "TEXT"):
            raise InvalidInput(f"parameter {name or 'without a name'} is no NUMERIC or TEXT content item", about=tag)
        if name in found:
            raise InvalidInput(f"parameter {name} is given twice", about=tag)
        try:
            found[name] = raw if not isinstance(raw, str) or kind == "TEXT" else float(raw)
        except ValueError:
            raise InvalidInput(f"parameter {name} is no number", about=tag) from None
        if raw is None:
            found[name] = ""
    return found


def units_of(attributes: Mapping[str, Any], tag: str = ups.PARAMETERS_SEQUENCE) -> dict[str, str]:
    """The code of the unit of each numeric parameter that names one, by name; "1" says that there is none."""
    found: dict[str, str] = {}
    for item in ups.items(attributes, tag):
        concept = next(iter(ups.items(item, CONCEPT_NAME_CODE_SEQUENCE)), {})
        units = next(iter(ups.items(item, UNITS_CODE_SEQUENCE)), {})
        name, unit = ups.code_value(concept)[0], ups.code_value(units)[0]
        if name and unit and ups.value(item, VALUE_TYPE) == "NUMERIC":
            found[name] = unit
    return found


def read_back(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """What `parameters_of` gives of a Workitem that these were written into."""
    return parameters_of({ups.PARAMETERS_SEQUENCE: element("SQ", *map(content_item, parameters))})


def plugin_of(attributes: Mapping[str, Any]) -> str | None:
    """The plug-in that the Workitem asks for, None where it asks for something that is not ours."""
    for item in ups.items(attributes, ups.WORKITEM_CODE_SEQUENCE):
        code_value, scheme = ups.code_value(item)
        if scheme == CODE_SCHEME and code_value:
            return code_value
    return None


def again(attributes: Mapping[str, Any], uid: str, now: float) -> Attributes:
    """What the Workitem `uid` asked for, to be asked for once more and at once, in its place and that of what it
    would have replaced."""
    older = ups.items(attributes, ups.REPLACED_PROCEDURE_STEP_SEQUENCE)
    fresh = {tag: entry for tag, entry in attributes.items() if tag not in _OF_ONE_RUN}
    fresh |= {
        ups.START_DATETIME: element("DT", ups.dt(now)),
        ups.PROCEDURE_STEP_STATE: element("CS", ups.State.SCHEDULED),
        ups.REPLACED_PROCEDURE_STEP_SEQUENCE: element("SQ", *older, _replaced(uid)),
    }
    return dict(sorted(fresh.items()))


_OF_ONE_RUN = frozenset((
    ups.SOP_CLASS_UID, ups.SOP_INSTANCE_UID, ups.TRANSACTION_UID, ups.EXPIRATION_DATETIME, ups.MODIFICATION_DATETIME,
    ups.PROGRESS_SEQUENCE, ups.PERFORMED_PROCEDURE_SEQUENCE,
))  # fmt: skip


def _replaced(uid: str) -> Attributes:
    return {
        ups.REFERENCED_SOP_CLASS_UID: element("UI", ups.UPS_PUSH_SOP_CLASS_UID),
        ups.REFERENCED_SOP_INSTANCE_UID: element("UI", uid),
    }


def request_key(attributes: Mapping[str, Any]) -> str | None:
    """What is the same for two requests of one plug-in with the same parameters for the same inputs, as they are named.

    None where the Workitem is not for a plug-in of ours, or names no inputs. The order of inputs counts.
    """
    plugin = plugin_of(attributes)
    if plugin is None:
        return None
    try:
        asked = [plugin, parameters_of(attributes), [_sorted(each) for each in references_of(attributes)]]
    except InvalidInput:
        return None
    if not asked[2]:
        return None
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _sorted(references: References) -> list[Any]:
    named = sorted(sop for _, sop in references.instances)
    return [references.study_instance_uid, references.series_instance_uid, named]


def reference_item(references: References) -> Attributes:
    """An item of Input or Output Information Sequence."""
    item: Attributes = {
        ups.STUDY_INSTANCE_UID: element("UI", references.study_instance_uid),
        TYPE_OF_INSTANCES: element("CS", "DICOM"),
    }
    if references.series_instance_uid is not None:
        item[ups.SERIES_INSTANCE_UID] = element("UI", references.series_instance_uid)
    if references.instances:
        item[ups.REFERENCED_SOP_SEQUENCE] = element(
            "SQ",
            *(
                {
                    ups.REFERENCED_SOP_CLASS_UID: element("UI", sop_class),
                    ups.REFERENCED_SOP_INSTANCE_UID: element("UI", sop_instance),
                }
                for sop_class, sop_instance in references.instances
            ),
        )
    return dict(sorted(item.items()))


def references_of(attributes: Mapping[str, Any], tag: str = ups.INPUT_INFORMATION_SEQUENCE) -> tuple[References, ...]:
    """The inputs (or outputs) in their order. Raises InvalidInput on an item that names no study."""
    found = []
    for item in ups.items(attributes, tag):
        study = ups.value(item, ups.STUDY_INSTANCE_UID) or ups.value(attributes, ups.STUDY_INSTANCE_UID)
        series = ups.value(item, ups.SERIES_INSTANCE_UID)
        if not isinstance(study, str) or not study:
            raise InvalidInput("an item names no Study Instance UID", about=tag)
        instances = tuple(
            (
                str(ups.value(sop, ups.REFERENCED_SOP_CLASS_UID) or ""),
                str(ups.value(sop, ups.REFERENCED_SOP_INSTANCE_UID)),
            )
            for sop in ups.items(item, ups.REFERENCED_SOP_SEQUENCE)
            if ups.value(sop, ups.REFERENCED_SOP_INSTANCE_UID)
        )
        found.append(References(study, str(series) if series else None, instances))
    return tuple(found)


def outputs_of(attributes: Mapping[str, Any]) -> tuple[References, ...]:
    """What a COMPLETED Workitem made."""
    performed = next(iter(ups.items(attributes, ups.PERFORMED_PROCEDURE_SEQUENCE)), {})
    return references_of(performed, ups.OUTPUT_INFORMATION_SEQUENCE)


def started_at(attributes: Mapping[str, Any]) -> float | None:
    """When a COMPLETED Workitem was begun, in Unix seconds; None where it does not say."""
    step = next(iter(ups.items(attributes, ups.PERFORMED_PROCEDURE_SEQUENCE)), {})
    return ups.moment(step, ups.PERFORMED_START_DATETIME)


def performed(
    attributes: Mapping[str, Any], outputs: Sequence[References], *, station: str, started: float, ended: float
) -> Attributes:
    """`attributes` with all that COMPLETED needs (PS3.4 Table CC.2.5-3): who did it, when, and what it made."""
    step = {
        ups.PERFORMED_STATION_NAME_CODE_SEQUENCE: element("SQ", code(station, CODE_SCHEME, station)),
        ups.PERFORMED_START_DATETIME: element("DT", ups.dt(started)),
        ups.PERFORMED_END_DATETIME: element("DT", ups.dt(ended)),
        ups.PERFORMED_WORKITEM_CODE_SEQUENCE: attributes.get(ups.WORKITEM_CODE_SEQUENCE, element("SQ")),
        ups.PERFORMED_PARAMETERS_SEQUENCE: attributes.get(ups.PARAMETERS_SEQUENCE, element("SQ")),
        ups.OUTPUT_INFORMATION_SEQUENCE: element("SQ", *map(reference_item, outputs)),
    }
    changed = {
        ups.PERFORMED_PROCEDURE_SEQUENCE: element("SQ", dict(sorted(step.items()))),
        ups.MODIFICATION_DATETIME: element("DT", ups.dt(ended)),
    }
    return dict(sorted({**attributes, **changed}.items()))


def grouped(references: Sequence[tuple[str, str, str, str]]) -> tuple[References, ...]:
    """(study, series, SOP class, SOP instance) rows as one References per series, in order of first appearance."""
    by_series: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for study, series, sop_class, sop_instance in references:
        by_series.setdefault((study, series), []).append((sop_class, sop_instance))
    return tuple(References(study, series, tuple(found)) for (study, series), found in by_series.items())
