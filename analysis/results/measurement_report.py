"""Owns measurement reports (PS3.16 TID 1500) as Comprehensive 3D SR, and the parts that every such report shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from analysis.api import Code, Measurement, SegmentMeasurements, VolumeReport
from analysis.results import inherited, provenance, segmentation
from analysis.results.provenance import RunInfo
from pacs import uids

KIND = "SR"
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
IMAGING_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
SOURCE = Code("260753009", "SCT", "Source")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
CONCLUSION = Code("121077", "DCM", "Conclusion")
_OTHER = ("OT", "Other")


def instance_uid(run: RunInfo) -> str:
    """SOP Instance UID of a task's report."""
    return run.instance_uid(KIND)


def encode(run: RunInfo, value: VolumeReport, labels: Dataset, models: Sequence[Dataset] = ()) -> Dataset:
    """The report of what was measured of the segments of `labels` (the finished Segmentation), finished.

    Each group (TID 1411) refers to its segment and names the algorithm; the models are further evidence.
    """
    images = run.instances(value.volume.sop_instance_uids)
    groups = [_volumetric_group(run, group, labels) for group in value.groups]
    return report(
        run,
        groups,
        evidence=[labels, *models, *images],
        images=images,
        conclusion=value.conclusion,
        description=f"{run.plugin_title}: measurements",
    )


def report(
    run: RunInfo,
    groups: Sequence[Any],
    *,
    evidence: Sequence[Dataset],
    images: Sequence[Dataset],
    description: str,
    conclusion: str = "",
) -> Dataset:
    """A finished TID 1500 report of highdicom measurement groups.

    evidence: every instance that is referred to, and further ones that belong to the result. images: the Image
    Library. conclusion: in words, becomes a qualitative evaluation, so that a report without groups still says so.
    """
    content = sr.MeasurementReport(
        observation_context=observation_context(run),
        procedure_reported=concept(IMAGING_PROCEDURE),
        imaging_measurements=list(groups) or None,
        title=concept(IMAGING_REPORT),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            language=sr.CodedConcept("en-US", "RFC5646", "English (United States)")
        ),
    )
    items = content[0].ContentSequence
    before = next((i for i, item in enumerate(items) if item.name == concept(IMAGING_MEASUREMENTS)), len(items))
    if images:
        items.insert(before, image_library(images))
    if conclusion:
        evaluations = sr.ContainerContentItem(
            name=concept(QUALITATIVE_EVALUATIONS), relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        evaluations.ContentSequence = sr.ContentSequence(
            [sr.TextContentItem(concept(CONCLUSION), conclusion, sr.RelationshipTypeValues.CONTAINS)]
        )
        items.append(evaluations)
    ds = sr.Comprehensive3DSR(
        evidence=[inherited.with_type_2(item) for item in evidence],
        content=content[0],
        series_instance_uid=run.series_uid(KIND),
        series_number=provenance.SERIES_NUMBERS[KIND],
        sop_instance_uid=instance_uid(run),
        instance_number=1,
        manufacturer=provenance.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    provenance.series(ds, run, KIND, "SR", description)
    content_template = Dataset()
    content_template.MappingResource, content_template.TemplateIdentifier = "DCMR", "1500"
    ds.ContentTemplateSequence = provenance.sequence(content_template)
    ds.PreliminaryFlag = "PRELIMINARY"  # no person has read it
    return provenance.finish(ds, run, images[0] if images else None)


def concept(code: Code) -> sr.CodedConcept:
    """A code as highdicom wants it."""
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def observation_context(run: RunInfo) -> sr.ObservationContext:
    """Who observed: the plug-in as a device (PS3.16 TID 1004)."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uids.derived("device", run.plugin_id, run.plugin_version),
        name=run.plugin_id,
        manufacturer_name=provenance.MANUFACTURER,
        model_name=run.plugin_title,
        serial_number=run.plugin_version,
    )
    observer_type = sr.CodedConcept("121007", "DCM", "Device")
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(observer_type=observer_type, observer_identifying_attributes=device)
    )


def algorithm_identification(run: RunInfo) -> sr.AlgorithmIdentification:
    """Which algorithm, in which version, with which parameters (PS3.16 TID 4019)."""
    parameters = [f"{name}={value}" for name, value in run.parameter_texts().items()]
    return sr.AlgorithmIdentification(name=run.plugin_title, version=run.plugin_version, parameters=parameters)


def measurements(values: Sequence[Measurement]) -> list[sr.Measurement]:
    """Numbers with meaning and unit (PS3.16 TID 300)."""
    return [sr.Measurement(concept(m.name), float(m.value), concept(m.unit)) for m in values]


def image_library(images: Sequence[Dataset]) -> sr.ContainerContentItem:
    """The images that were looked at (PS3.16 TID 1600), in one group that says once what they have in common.

    One image a row and no descriptors per image: a report of a thousand slices stays small.
    """
    first = images[0]
    context = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    modality, meaning = _modality(first)
    common: list[sr.ContentItem] = [
        sr.CodeContentItem(
            sr.CodedConcept("121139", "DCM", "Modality"),
            sr.CodedConcept(modality, "DCM", meaning),
            context,
        )
    ]
    frame = first.get("FrameOfReferenceUID")
    if frame:
        name = sr.CodedConcept("112227", "DCM", "Frame of Reference UID")
        common.append(sr.UIDRefContentItem(name, frame, context))
    group = sr.ContainerContentItem(concept(IMAGE_LIBRARY_GROUP), relationship_type=sr.RelationshipTypeValues.CONTAINS)
    rows = [
        sr.ImageContentItem(
            name=concept(SOURCE),
            referenced_sop_class_uid=ds.SOPClassUID,
            referenced_sop_instance_uid=ds.SOPInstanceUID,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        for ds in images
    ]
    group.ContentSequence = sr.ContentSequence([*common, *rows])
    library = sr.ContainerContentItem(concept(IMAGE_LIBRARY), relationship_type=sr.RelationshipTypeValues.CONTAINS)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _modality(image: Dataset) -> tuple[str, str]:
    """Modality of an image as a code of PS3.16 CID 29 and its meaning; of one that is none, "other"."""
    found = str(image.get("Modality") or "")
    return next(((found, each.meaning) for each in codes.cid29.concepts.values() if each.value == found), _OTHER)


def _volumetric_group(run: RunInfo, group: SegmentMeasurements, labels: Dataset) -> Any:
    segment = group.segment
    source = labels.ReferencedSeriesSequence[0].SeriesInstanceUID
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=segmentation.tracking_uid(run, segment), identifier=segment.label
        ),
        referenced_segment=sr.ReferencedSegment(
            labels.SOPClassUID,
            labels.SOPInstanceUID,
            segment.number,
            source_series=sr.SourceSeriesForSegmentation(source),
        ),
        finding_type=concept(segment.type),
        finding_category=concept(segment.category),
        algorithm_id=algorithm_identification(run),
        measurements=measurements(group.measurements),
    )
