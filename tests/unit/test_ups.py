"""The rules of the Unified Procedure Step, against the tables of PS3.4 annex CC."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from pacs import uids
from pacs.dicom import ups, ups_task
from pacs.dicom.ups import State
from pacs.errors import ArchiveError, InvalidInput, StateConflict, TransactionMismatch

NOW = 1_767_312_245.25  # 2026-01-02 00:04:05.25 UTC
UID = uids.derived("workitem", 1)


def workitem(**changes: Any) -> dict[str, Any]:
    built = ups_task.build(
        plugin="bone_surface",
        title="Bone surface",
        label="Bone surface of series 2",
        parameters=[ups_task.Parameter("threshold_hu", "Threshold", 226.5, "[hnsf'U]")],
        inputs=[ups_task.References("1.2.3", "1.2.3.4", (("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"),))],
        patient={"00100020": {"vr": "LO", "Value": ["SYN-1"]}, "00100010": {"vr": "PN"}},
        now=NOW,
    )
    return {**built, **changes}


def test_a_built_workitem_is_accepted_and_is_legal_dicom() -> None:
    kept = ups.created(workitem(), UID, NOW)
    assert list(kept) == sorted(kept)
    assert set(ups.TYPE_2) <= set(kept)
    ds = Dataset.from_json(kept)
    assert ds.SOPInstanceUID == UID
    assert ds.ProcedureStepState == "SCHEDULED"
    assert ds.ScheduledProcedureStepStartDateTime == "20260102000405.250000+0000"
    assert ds.ScheduledWorkitemCodeSequence[0].CodingSchemeDesignator == "99M3DICOM"
    assert "TransactionUID" not in ds
    for element in ds.iterall():
        assert dictionary_VR(element.tag) == element.VR, element.keyword


def inputs(study: Any = "1.2.3", instance: Any = "1.2.3.4", vr: str = "UI") -> dict[str, Any]:
    referenced = {
        ups.REFERENCED_SOP_CLASS_UID: ups.element("UI", "1.2.840.10008.5.1.4.1.1.2"),
        ups.REFERENCED_SOP_INSTANCE_UID: ups.element(vr, instance),
    }
    item = {
        ups.STUDY_INSTANCE_UID: ups.element("UI", study),
        ups.REFERENCED_SOP_SEQUENCE: ups.element("SQ", referenced),
    }
    return ups.element("SQ", item)


def test_uids_of_inputs_that_may_be_there() -> None:
    """Leading zeros are in real archives, and an empty value is one that is not known."""
    for each in (inputs("1.02.3"), inputs(study=""), inputs(study=None)):
        assert ups.created(workitem(**{ups.INPUT_INFORMATION_SEQUENCE: each}), UID, NOW)
    with pytest.raises(InvalidInput, match="is no UID"):
        ups.updated(workitem(), {ups.INPUT_INFORMATION_SEQUENCE: inputs(study="x")}, NOW)


@pytest.mark.parametrize("tag", sorted(ups.TYPE_1))
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_each_missing_type_1_attribute_is_named(tag: str, how: str) -> None:
    asked = workitem()
    if how == "absent":
        del asked[tag]
    else:
        asked[tag] = {"vr": asked[tag]["vr"]}
    with pytest.raises(InvalidInput, match=tag):
        ups.created(asked, UID, NOW)


@pytest.mark.parametrize(
    ("tag", "element", "words"),
    [
        (ups.PROCEDURE_STEP_STATE, {"vr": "CS", "Value": ["IN PROGRESS"]}, "not SCHEDULED"),
        (ups.TRANSACTION_UID, {"vr": "UI", "Value": ["1.2"]}, "Transaction UID"),
        (ups.PROGRESS_SEQUENCE, {"vr": "SQ", "Value": [{}]}, "Progress"),
        (ups.PERFORMED_PROCEDURE_SEQUENCE, {"vr": "SQ", "Value": [{}]}, "Performed"),
        (ups.SOP_INSTANCE_UID, {"vr": "UI", "Value": ["1.2"]}, "differs"),
        (ups.PRIORITY, {"vr": "CS", "Value": ["URGENT"]}, "HIGH"),
        (ups.INPUT_READINESS_STATE, {"vr": "CS", "Value": ["MAYBE"]}, "READY"),
        (ups.START_DATETIME, {"vr": "DT", "Value": ["soon"]}, "DT"),
        (ups.START_DATETIME, {"vr": "DT", "Value": [7]}, "DT"),
        (ups.INPUT_INFORMATION_SEQUENCE, inputs(study="1.2.3.x"), "StudyInstanceUID"),
        (ups.INPUT_INFORMATION_SEQUENCE, inputs(instance="1.2." + "3" * 63), "ReferencedSOPInstanceUID"),
        (ups.INPUT_INFORMATION_SEQUENCE, inputs(instance="not-a-uid", vr="LO"), "ReferencedSOPInstanceUID"),
        (ups.INPUT_INFORMATION_SEQUENCE, inputs(instance=7), "ReferencedSOPInstanceUID"),
    ],
)
def test_what_may_not_be_there_at_creation(tag: str, element: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        ups.created(workitem(**{tag: element}), UID, NOW)


def test_an_empty_transaction_uid_is_tolerated_and_dropped() -> None:
    assert ups.TRANSACTION_UID not in ups.created(workitem(**{ups.TRANSACTION_UID: {"vr": "UI"}}), UID, NOW)


S, P, D, X = State.SCHEDULED, State.IN_PROGRESS, State.COMPLETED, State.CANCELED
OK, WARNED, STATE, TRANSACTION = "ok", "warned", StateConflict, TransactionMismatch


# PS3.4 Table CC.1.1-2; recorded Transaction UID "1.1" (none while SCHEDULED).
@pytest.mark.parametrize(
    ("state", "target", "given", "expected"),
    [
        (S, P, "1.1", OK), (S, P, None, TRANSACTION), (S, D, "1.1", STATE), (S, X, "1.1", STATE),
        (P, P, "1.1", STATE), (P, P, "1.9", TRANSACTION), (P, D, "1.1", OK), (P, X, "1.1", OK),
        (P, D, "1.9", TRANSACTION), (P, X, None, TRANSACTION),
        (D, P, "1.1", STATE), (D, D, "1.1", WARNED), (D, X, "1.1", STATE), (D, D, "1.9", TRANSACTION),
        (X, P, "1.1", STATE), (X, D, "1.1", STATE), (X, X, "1.1", WARNED), (X, X, None, TRANSACTION),
        (S, S, "1.1", STATE), (P, S, "1.1", STATE), (D, S, "1.1", STATE), (X, S, None, STATE),
    ],
)  # fmt: skip
def test_state_table(state: State, target: State, given: str | None, expected: Any) -> None:
    recorded = None if state is S else "1.1"
    if expected in (OK, WARNED):
        warning = ups.transition(state, target, recorded, given)
        assert (warning is not None) == (expected == WARNED)
    else:
        with pytest.raises(expected):
            ups.transition(state, target, recorded, given)


def test_no_sequence_of_requests_leaves_a_final_state() -> None:
    for state in (D, X):
        for target in State:
            for transaction_uid in (None, "1.1", "1.9"):
                try:
                    assert ups.transition(state, target, "1.1", transaction_uid) is not None
                except ArchiveError:
                    continue
                assert target is state


@pytest.mark.parametrize(
    ("state", "given", "error"),
    [(S, None, None), (S, "1.1", TransactionMismatch), (P, "1.1", None), (P, None, TransactionMismatch),
     (P, "1.9", TransactionMismatch), (D, "1.1", StateConflict), (X, "1.1", StateConflict)],
)  # fmt: skip
def test_when_an_update_is_allowed(state: State, given: str | None, error: type[Exception] | None) -> None:
    recorded = None if state is S else "1.1"
    if error is None:
        ups.check_update(state, recorded, given)
    else:
        with pytest.raises(error):
            ups.check_update(state, recorded, given)


def test_an_update_replaces_sequences_as_a_whole_and_leaves_identity_alone() -> None:
    kept = ups.created(workitem(), UID, NOW)
    before = copy.deepcopy(kept)
    new = {ups.PARAMETERS_SEQUENCE: {"vr": "SQ", "Value": []}, ups.LABEL: {"vr": "LO", "Value": ["other"]}}
    after = ups.updated(kept, new, NOW + 1)
    assert kept == before
    assert ups.items(after, ups.PARAMETERS_SEQUENCE) == []
    assert ups.value(after, ups.LABEL) == "other"
    for tag in ups.FIXED:
        with pytest.raises(InvalidInput, match=tag):
            ups.updated(kept, {tag: {"vr": "UN", "Value": ["2"]}}, NOW)
    with pytest.raises(InvalidInput, match="emptied"):
        ups.updated(kept, {ups.LABEL: {"vr": "LO"}}, NOW)
    assert ups.updated(kept, {ups.PATIENT_ID: kept[ups.PATIENT_ID]}, NOW)


def test_completion_names_what_is_missing_and_ours_has_all() -> None:
    kept = ups.created(workitem(), UID, NOW)
    with pytest.raises(StateConflict) as refused:
        ups.finalised(kept, D, NOW)
    for name in ups.PERFORMED_FINAL.values():
        assert name in refused.value.reason
    done = ups_task.performed(
        kept, [ups_task.References("1.2", "1.3", (("1.4", "1.5"),))], station="host", started=NOW, ended=NOW + 3
    )
    assert ups.finalised(done, D, NOW) == done
    assert ups_task.outputs_of(done) == (ups_task.References("1.2", "1.3", (("1.4", "1.5"),)),)
    assert Dataset.from_json(done).UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence


def test_cancellation_says_when_and_why_and_keeps_the_performers_words() -> None:
    kept = ups.with_progress(ups.created(workitem(), UID, NOW), 40, "smoothing")
    done = ups.canceled(kept, "the series has mixed orientations", NOW + 2)
    assert ups.progress_of(done) == (40, "smoothing", "the series has mixed orientations")
    progress = Dataset.from_json(done).ProcedureStepProgressInformationSequence[0]
    assert progress.ProcedureStepCancellationDateTime == ups.dt(NOW + 2)
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    assert ups.progress_of(ups.finalised(done, X, NOW + 9)) == ups.progress_of(done)


def test_inputs_and_plugin_come_back() -> None:
    attributes = workitem()
    assert ups_task.plugin_of(attributes) == "bone_surface"
    assert ups_task.references_of(attributes) == (
        ups_task.References("1.2.3", "1.2.3.4", (("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"),)),
    )
    long = workitem(
        **{ups.WORKITEM_CODE_SEQUENCE: ups.element("SQ", ups.code("a_plug_in_with_a_long_id", "99M3DICOM", "x"))}
    )
    assert ups_task.plugin_of(long) == "a_plug_in_with_a_long_id"
    assert ups_task.plugin_of({}) is None
    foreign = workitem(**{ups.WORKITEM_CODE_SEQUENCE: ups.element("SQ", ups.code("110001", "DCM", "Image Processing"))})
    assert ups_task.plugin_of(foreign) is None
    whole_study = workitem(
        **{ups.INPUT_INFORMATION_SEQUENCE: ups.element("SQ", ups_task.reference_item(ups_task.References("1.9")))}
    )
    assert ups_task.references_of(whole_study) == (ups_task.References("1.9"),)


VALUES = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(-1e300, 1e300),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
)


@pytest.mark.parametrize(
    ("title", "meaning"),
    [
        ("Round\\oval", "Round/oval"), ("", "shape"), (" \t ", "shape"), ("two\nlines", "two lines"),
        ("Maße, 長さ", "Maße, 長さ"), ("x" * 63 + " yz", "x" * 63), ("\x1b$B", "$B"),
    ],
)  # fmt: skip
def test_whatever_a_plugin_calls_its_parameters_is_a_code_meaning(title: str, meaning: str) -> None:
    item = ups_task.content_item(ups_task.Parameter("shape", title, 1.5, "mm\\s"))
    (concept,) = ups.items(item, ups_task.CONCEPT_NAME_CODE_SEQUENCE)
    assert ups.value(concept, "00080104") == meaning
    (unit,) = ups.items(item, ups_task.UNITS_CODE_SEQUENCE)
    assert (ups.value(unit, "00080100"), ups.value(unit, "00080104")) == ("mm/s", "mm/s")
    assert ups_task.parameters_of({ups.PARAMETERS_SEQUENCE: ups.element("SQ", item)}) == {"shape": 1.5}


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True), VALUES, max_size=5))
def test_parameters_come_back_exactly(params: dict[str, Any]) -> None:
    listed = [ups_task.Parameter(name, name.title(), value) for name, value in params.items()]
    attributes = {ups.PARAMETERS_SEQUENCE: ups.element("SQ", *map(ups_task.content_item, listed))}
    found = ups_task.parameters_of(attributes)
    assert found.keys() == params.keys()
    for name, value in params.items():
        assert found[name] == value
    for item in ups.items(attributes, ups.PARAMETERS_SEQUENCE):
        number = ups.value(item, ups_task.NUMERIC_VALUE)
        assert number is None or len(str(number)) <= 24
        assert number is None or math.isfinite(number)


def test_parameters_that_are_neither_number_nor_text_are_refused() -> None:
    item = ups_task.content_item(ups_task.Parameter("t", "T", 1))
    for broken in (
        {**item, ups_task.VALUE_TYPE: ups.element("CS", "IMAGE")},
        {},
        {**item, ups_task.NUMERIC_VALUE: {"vr": "DS"}},
    ):
        with pytest.raises(InvalidInput):
            ups_task.parameters_of({ups.PARAMETERS_SEQUENCE: ups.element("SQ", broken)})
    with pytest.raises(InvalidInput, match="twice"):
        ups_task.parameters_of({ups.PARAMETERS_SEQUENCE: ups.element("SQ", item, item)})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20260102000405.25", NOW),
        ("20260102010405.25+0100", NOW),
        ("20260101", 1_767_225_600.0),
        ("2026", 1_767_225_600.0),
    ],
)
def test_dt(text: str, seconds: float) -> None:
    assert ups.from_dt(text) == seconds
    assert ups.from_dt(ups.dt(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "00010101000000+1400",
        "99991231235959-1200",
        "99991231235959.999999",
        "\uff12026",
        "20260102010405+1500",
        "20260102010405-1230",
        "20260102010405+01:00",
    ],
)
def test_a_dt_that_is_beyond_the_calendar_in_utc(text: str) -> None:
    with pytest.raises(InvalidInput, match="DT"):
        ups.from_dt(text)


@pytest.mark.parametrize("tag", [ups.LABEL, ups.WORKITEM_CODE_SEQUENCE])
def test_sequences_only_where_there_are_some(tag: str) -> None:
    other = {"vr": "SQ", "Value": [{}]} if tag == ups.LABEL else {"vr": "LO", "Value": ["x"]}
    with pytest.raises(InvalidInput, match="sequence"):
        ups.created({**workitem(), tag: other}, UID, NOW)


def test_progress_beyond_every_number() -> None:
    progress = {ups.PROGRESS: {"vr": "DS", "Value": ["1e400"]}}
    assert ups.progress_of({ups.PROGRESS_SEQUENCE: {"vr": "SQ", "Value": [progress]}}) == (0, "", "")


def test_an_update_does_not_say_how_we_keep_text() -> None:
    kept = ups.created(workitem(), UID, NOW)
    after = ups.updated(kept, {ups.SPECIFIC_CHARACTER_SET: {"vr": "CS", "Value": ["ISO_IR 100"]}}, NOW)
    assert ups.value(after, ups.SPECIFIC_CHARACTER_SET) == "ISO_IR 192"


def test_what_is_kept_as_it_was_given_is_not_modified() -> None:
    given = {**workitem(), ups.WORKLIST_LABEL: {"vr": "LO", "Value": ["TEAM"]}}
    assert not ups.modified(given, UID)
    assert ups.modified({**given, ups.MODIFICATION_DATETIME: {"vr": "DT", "Value": ["20260101"]}}, UID)
