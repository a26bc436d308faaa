"""What a store changes in an object is told, in the object and in the answer (PS3.18 10.5.2, PS3.3 C.12.1.1.9)."""

from __future__ import annotations

from pydicom import Dataset

from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.checks.retrieve import IGNORED
from conformance.checks.store import fresh, send
from conformance.checks.syntaxes import OBJECT, files
from conformance.client import Answer
from conformance.context import Context, outcome, text, values
from conformance.data import Sample, read, same_elements

SERVICE = "STOW-RS"
COERCED = 0xB000


def tempted(c: Context, name: str) -> tuple[Sample, Answer, Dataset]:
    """An object that a careful server may want to correct, the answer to its store, and the object as it comes back.

    It is of another patient than the first of its study. Raises NotSupported where it is refused, and NotApplicable
    where nothing in it was changed.
    """
    first = fresh(c, name, PatientName="ZZConformance^First")
    c.expect_status(send(c, [first.file]), 200, 202)
    ds = c.maker.dataset(name, "2", 2, PatientName="ZZConformance^Second", PatientID=c.maker.patient_id(f"{name} 2"))
    second = c.maker.sample(f"{name} second", ds)
    answer = send(c, [second.file])
    if second.instance not in outcome(answer)[0]:
        raise NotSupported(f"it is refused: status {answer.status}")
    for _, file in files(c, c.web.get(second.path, accept=OBJECT)):
        got = read(file)
        if same_elements(ds, got, (*IGNORED, "SpecificCharacterSet")):
            return second, answer, got
    raise NotApplicable("the server keeps every element as it came")


@check("F13", "PS3.18 10.5.2", "what was coerced stands in the Original Attributes Sequence of the object",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def original_attributes(c: Context) -> None:
    sample, answer, got = tempted(c, "coerced")
    before = [item for each in got.get("OriginalAttributesSequence") or []
              for item in each.get("ModifiedAttributesSequence") or []]  # fmt: skip
    c.expect("an item of (0400,0561) with Modified Attributes (0400,0550)", before, sorted(map(str, got.keys()))[:20],
             about=answer)  # fmt: skip
    for element in sample.dataset:
        if element.tag in got and got[element.tag].value == element.value:
            continue
        told = any(element.tag in item and item[element.tag].value == element.value for item in before)
        c.expect(f"the former value of {element.keyword} in it", told, about=answer)


@check("D08", "PS3.18 I.2.2", "a store that coerced says so: Warning Reason B000H", Level.CONDITIONAL, service=SERVICE)
def warned(c: Context) -> None:
    sample, answer, _ = tempted(c, "warned")
    items = [item for each in answer.objects() for item in values(each, "00081199")]
    reasons = [text(item, "00081196") for item in items if text(item, "00081155") == sample.instance]
    c.expect("Warning Reason (0008,1196) B000H with the instance", reasons == [str(COERCED)], reasons, about=answer)
