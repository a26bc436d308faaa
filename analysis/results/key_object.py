"""Owns the Key Object Selection of a task (PS3.3 A.35.4, PS3.16 TID 2010): what a reader should open first."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from analysis.api import Code
from analysis.results import content, provenance
from analysis.results.content import CONTAINS, OBSERVATION
from analysis.results.provenance import RunInfo
from pacs import uids

KIND = "KO"
OF_INTEREST = Code("113000", "DCM", "Of Interest")
_OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
_DEVICE = Code("121007", "DCM", "Device")
_DESCRIPTION = Code("113012", "DCM", "Key Object Description")


def encode(run: RunInfo, images: Sequence[Dataset], words: str, results: Sequence[Dataset] = ()) -> Dataset:
    """The finished document that names these images of one study, with a sentence on why, then other results."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = KeyObjectSelectionDocumentStorage, run.instance_uid(KIND)
    ds.StudyInstanceUID, ds.InstanceNumber = images[0].StudyInstanceUID, 1
    provenance.series(ds, run, KIND, "KO", f"{run.plugin_title}: images with findings")
    ds.ReferencedPerformedProcedureStepSequence = provenance.sequence()
    ds.CurrentRequestedProcedureEvidenceSequence = provenance.sequence(provenance.evidence([*images, *results]))
    ds.ContentDate, ds.ContentTime = run.date, run.time
    content.document(
        ds,
        OF_INTEREST,
        "2010",
        [
            content.code(OBSERVATION, _OBSERVER_TYPE, _DEVICE),
            content.uid(
                OBSERVATION,
                Code("121012", "DCM", "Device Observer UID"),
                uids.derived("device", run.plugin_id, run.plugin_version),
            ),
            content.text(OBSERVATION, Code("121013", "DCM", "Device Observer Name"), run.plugin_id),
            content.text(OBSERVATION, Code("121014", "DCM", "Device Observer Manufacturer"), provenance.MANUFACTURER),
            content.text(OBSERVATION, Code("121015", "DCM", "Device Observer Model Name"), run.plugin_title),
            content.text(CONTAINS, _DESCRIPTION, words),
            # TID 2010 gives these items no name
            *(content.image(CONTAINS, each) for each in images),
            *(content.image(CONTAINS, each) for each in results if "Rows" in each),
            *(content.composite(CONTAINS, each) for each in results if "Rows" not in each),
        ],
    )
    return provenance.finish(ds, run, images[0])
