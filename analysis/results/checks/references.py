"""Owns the check of a set of results: all are of one patient and study, and references find what they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from pydicom import Dataset

SAME = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")
_SERIES = ("Modality", "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "Laterality")
_DOCUMENTS = ("KO", "SR")
_LISTS = ("ReferencedSeriesSequence", "StudiesContainingOtherReferencedInstancesSequence")


@dataclass(frozen=True)
class Source:
    """What is known of an input."""

    sop_class_uid: str
    study_instance_uid: str

    @classmethod
    def of(cls, ds: Dataset) -> Source:
        """Of an input as a data set."""
        return cls(str(ds.SOPClassUID), str(ds.get("StudyInstanceUID")))


def defects(
    results: Sequence[Dataset], sources: Mapping[str, Source], study: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """What is wrong between results: (index of the result, words).

    sources: the inputs by SOP Instance UID. study: the patient's and study's attributes as text, by
    keyword, of the input.
    """
    known = {uid: source.sop_class_uid for uid, source in sources.items()}
    known |= {str(ds.get("SOPInstanceUID")): str(ds.get("SOPClassUID")) for ds in results}
    series: dict[str, Dataset] = {}
    seen: set[str] = set()
    for number, ds in enumerate(results):
        uid = str(ds.get("SOPInstanceUID"))
        if uid in seen or uid in sources:
            yield number, "its SOP Instance UID is that of another instance"
        seen.add(uid)
        for keyword in SAME:
            if keyword in study and str(ds.get(keyword) or "") != study[keyword]:
                yield number, f"{keyword} is not that of the input"
        first = series.setdefault(str(ds.get("SeriesInstanceUID")), ds)
        for keyword in _SERIES:
            if str(first.get(keyword) or "") != str(ds.get(keyword) or ""):
                yield number, f"{keyword} differs within a series"
        named = list(_references(ds))
        yield from ((number, words) for words in _resolved(named, known))
        yield from ((number, words) for words in _listed(ds, sources))
        yield from ((number, words) for words in _related(ds, {uid for _, uid in named}, results, sources.keys()))


def _resolved(named: Sequence[tuple[str, str]], known: Mapping[str, str]) -> Iterator[str]:
    lost = 0
    for class_uid, uid in named:
        if uid not in known:
            lost += 1
        elif class_uid != known[uid]:
            yield "a reference names another SOP class than that of the instance"
            return
    if lost:
        yield f"{lost} references to what is neither input nor result"


def _references(ds: Dataset, but: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    for element in ds:
        if element.VR != "SQ" or element.keyword in but:
            continue
        for item in element.value:
            if item.get("ReferencedSOPInstanceUID"):
                yield str(item.get("ReferencedSOPClassUID") or ""), str(item.ReferencedSOPInstanceUID)
            yield from _references(item)


def _listed(ds: Dataset, sources: Mapping[str, Source]) -> Iterator[str]:
    """PS3.3 C.12.2 and C.17.2.3: what is referred to anywhere is listed once, with its series and its study."""
    here = str(ds.get("StudyInstanceUID"))
    listed: list[tuple[str, str]] = []  # (study, instance)
    if ds.get("Modality") in _DOCUMENTS:
        names = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for item in (item for name in names for item in ds.get(name) or ()):
            listed += [(str(item.get("StudyInstanceUID")), uid) for _, uid in _references(item)]
        used = {uid for item in ds.get("ContentSequence") or () for uid in _content(item)}
    elif ds.get("Modality") != "PR":
        for item in ds.get(_LISTS[0]) or ():
            listed += [(here, uid) for _, uid in _references(item)]
        for item in ds.get(_LISTS[1]) or ():
            listed += [(str(item.get("StudyInstanceUID")), uid) for _, uid in _references(item)]
        used = {uid for _, uid in _references(ds, but=_LISTS)}
    else:
        return
    names_of = [uid for _, uid in listed]
    if len(set(names_of)) < len(names_of):
        yield "an instance is listed twice as evidence"
    if missing := used - set(names_of):
        yield f"{len(missing)} instances are referred to and not listed"
    if any(uid in sources and sources[uid].study_instance_uid != study for study, uid in listed):
        yield "an instance is listed in another study than its own"
    elsewhere = {uid for uid, source in sources.items() if source.study_instance_uid != here}
    if ds.get("Modality") != "KO" and elsewhere - set(names_of):
        yield f"{len(elsewhere - set(names_of))} inputs of other studies are not named"


def _content(item: Dataset) -> Iterator[str]:
    for reference in item.get("ReferencedSOPSequence") or ():
        yield str(reference.get("ReferencedSOPInstanceUID"))
    for child in item.get("ContentSequence") or ():
        yield from _content(child)


def _related(ds: Dataset, referred: Set[str], results: Sequence[Dataset], sources: Set[str]) -> Iterator[str]:
    """Each result says what it was made of, and which others its task made. referred: the instances that it names."""
    if not referred & sources and str(ds.get("SOPClassUID")):
        yield "it refers to none of its inputs"
    mine = str(ds.get("SeriesInstanceUID"))
    others = {
        str(each.get("SeriesInstanceUID")): str(each.get("SOPInstanceUID"))
        for each in results
        if str(each.get("SeriesInstanceUID")) != mine
    }
    listed = {str(item.get("SeriesInstanceUID")) for item in ds.get("RelatedSeriesSequence") or ()}
    lost = [uid for uid, instance in others.items() if uid not in listed and instance not in referred]
    if lost:
        yield f"{len(lost)} other series of its task are not named"
