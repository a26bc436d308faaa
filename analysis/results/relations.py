"""Owns how the results of a task name one another and all inputs, each in the way that its IOD has for it.

Inputs may lie in other studies, as priors do: they are sources like the others, and are listed with their study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from analysis.api import Code
from analysis.results import provenance
from analysis.results.provenance import sequence

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_LISTS = ("ReferencedSeriesSequence", "StudiesContainingOtherReferencedInstancesSequence")


def relate(results: Sequence[Dataset], sources: Sequence[Dataset] = ()) -> None:
    """Complete every result of a task with what it does not say yet of the others and of the inputs.

    A report names them as Pertinent Other Evidence (PS3.3 C.17.2). Anything else names the others as Related Series
    (C.7.3.1), and the inputs as Source Images or Source Instances (C.12.4), listed by study and series (Common Instance
    Reference, C.12.2). Pictures of single images are made of these, and of inputs of other studies. A presentation
    state and a Key Object name what they present and select; their IODs have no place for further sources.
    """
    known = {str(ds.SOPInstanceUID): ds for ds in (*sources, *results)}
    for ds in results:
        others = [other for other in results if other is not ds]
        if ds.Modality == "SR":
            _evidence(ds, [*others, *sources])
        elif ds.Modality != "KO":
            _related_series(ds, others)
            if ds.Modality != "PR":
                _sources(ds, sources)
                _listed(ds, known)


def _evidence(ds: Dataset, instances: Sequence[Dataset]) -> None:
    listed = {uid for _, uid in references(ds)}
    by_study: dict[str, list[Dataset]] = {}
    for each in instances:
        if str(each.SOPInstanceUID) not in listed:
            by_study.setdefault(str(each.StudyInstanceUID), []).append(each)
    if by_study:
        more = map(provenance.evidence, by_study.values())
        ds.PertinentOtherEvidenceSequence = sequence(*ds.get("PertinentOtherEvidenceSequence", ()), *more)


def _related_series(ds: Dataset, others: Sequence[Dataset]) -> None:
    series_of = {str(o.SeriesInstanceUID): str(o.StudyInstanceUID) for o in others}
    items = []
    for series_uid, study_uid in sorted(series_of.items()):
        if series_uid == ds.SeriesInstanceUID:
            continue
        item = Dataset()
        item.StudyInstanceUID, item.SeriesInstanceUID = study_uid, series_uid
        item.PurposeOfReferenceCodeSequence = sequence()
        items.append(item)
    if items:
        ds.RelatedSeriesSequence = sequence(*items)


def _sources(ds: Dataset, sources: Sequence[Dataset]) -> None:
    named = {uid for _, uid in references(ds)}
    of_images = ds.SOPClassUID == SecondaryCaptureImageStorage or "FrameLabelVector" in ds
    images, instances = [], []
    for each in sources:
        if str(each.SOPInstanceUID) in named or (of_images and each.StudyInstanceUID == ds.StudyInstanceUID):
            continue
        item = provenance.reference(each)
        if "Rows" in ds and "Rows" in each:
            item.PurposeOfReferenceCodeSequence = sequence(provenance.code(SOURCE_IMAGE))
            images.append(item)
        else:
            instances.append(item)
    for keyword, items in (("SourceImageSequence", images), ("SourceInstanceSequence", instances)):
        if items:
            setattr(ds, keyword, sequence(*ds.get(keyword, ()), *items))


def _listed(ds: Dataset, known: Mapping[str, Dataset]) -> None:
    """Every instance that is referred to, once, with its series and, beyond this study, with its study."""
    by_study: dict[str, list[Dataset]] = {str(ds.StudyInstanceUID): []}
    for uid in dict.fromkeys(uid for _, uid in references(ds)):
        if uid in known:
            by_study.setdefault(str(known[uid].StudyInstanceUID), []).append(known[uid])
    here = by_study.pop(str(ds.StudyInstanceUID))
    if here:
        ds.ReferencedSeriesSequence = sequence(*provenance.referenced_series(here))
    studies = []
    for study_uid, instances in by_study.items():
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ReferencedSeriesSequence = sequence(*provenance.referenced_series(instances))
        studies.append(item)
    if studies:
        ds.StudiesContainingOtherReferencedInstancesSequence = sequence(*studies)


def references(ds: Dataset) -> Iterator[tuple[str, str]]:
    """SOP Class and Instance UID of every instance that is referred to, at any depth, in the order of the data set."""
    for tag in list(ds.keys()):
        if ds.get_item(tag).VR != "SQ":
            continue
        for item in ds[tag].value or ():
            if "ReferencedSOPInstanceUID" in item:
                yield str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)
            yield from references(item)
