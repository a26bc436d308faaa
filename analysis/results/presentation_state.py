"""Owns the Grayscale Softcopy Presentation State of an image's findings (PS3.3 A.33.1): marks over the untouched image.

Any PACS workstation draws it, and the reader takes the marks off with one key: nothing is burnt in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from analysis.api import Array, ImageFindings, Mark
from analysis.results import places, provenance
from analysis.results.mammography_cad_sr import tracking_uid
from analysis.results.marked_picture import percent
from analysis.results.provenance import RunInfo

KIND = "PR"
LAYER, IDS = "CADE", "CADE IDS"
_ID_MM = (9.0, 2.5)  # width and height of a calcification's id
_NAME_MM = (14.0, 3.5)  # and of a cluster's, with its score
_AMBER_LAB = (53970, 33400, 52400)  # PCS-Values of the viewer's amber (PS3.3 C.10.7.1.1)
_CIRCLE_MM = 1.1
_VOI = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence")
_MODALITY = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType")


def encode(run: RunInfo, findings: ImageFindings) -> Dataset:
    """The finished presentation state of one image that has marks.

    Look-up tables are the image's own, so that the picture is the one the modality meant; the whole image is shown.
    """
    source = run.source(findings.image.sop_instance_uid)
    rows, columns = findings.image.data.shape
    ds = Dataset()
    ds.SOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    ds.SOPInstanceUID = run.instance_uid(KIND, findings.image.sop_instance_uid, findings.image.frame_number or 0)
    ds.StudyInstanceUID = source.StudyInstanceUID
    ds.InstanceNumber = 1 + [str(each.SOPInstanceUID) for each in run.sources].index(findings.image.sop_instance_uid)
    provenance.series(ds, run, KIND, "PR", f"{run.plugin_title}: marks")
    side = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    ds.Laterality = None  # nobody knows whether the part is paired (PS3.3 C.7.3.1, Type 2C)
    if side in ("L", "R"):
        # Laterality belongs to the series, so each side has one of its own (PS3.3 C.7.3.1).
        ds.Laterality = side
        ds.SeriesInstanceUID = run.uid("series", KIND, side)
        ds.SeriesNumber = provenance.SERIES_NUMBERS[KIND] + ("RL".index(side))
    ds.PresentationCreationDate, ds.PresentationCreationTime = run.date, run.time
    ds.ContentLabel, ds.ContentDescription = LAYER, findings.summary[:64]
    ds.ContentCreatorName = f"{provenance.MANUFACTURER}^{run.plugin_title}"[:64]
    image = provenance.reference(source)
    if findings.image.frame_number is not None:
        image.ReferencedFrameNumber = findings.image.frame_number
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedImageSequence = provenance.sequence(image)
    ds.ReferencedSeriesSequence = provenance.sequence(series)
    ds.DisplayedAreaSelectionSequence = provenance.sequence(_whole(source, rows, columns))
    annotations = _annotations(run, findings, image)
    ds.GraphicLayerSequence = provenance.sequence(*_layers(run)[: len(annotations)])
    ds.GraphicAnnotationSequence = provenance.sequence(*annotations)
    _look_up_tables(ds, source)
    return provenance.finish(ds, run, source)


def _whole(source: Dataset, rows: int, columns: int) -> Dataset:
    """The whole image, scaled to fit (PS3.3 C.10.4); pixels are square, or in the ratio that the image says."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = source.get("PixelAspectRatio")
    area.PresentationPixelAspectRatio = [int(each) for each in ratio] if ratio else [1, 1]
    return area


def _layers(run: RunInfo) -> list[Dataset]:
    """The marks, and in a layer of their own, which a reader may take off first, the ids of what clusters hold."""
    layers = []
    for order, (name, words) in enumerate(((LAYER, "marks"), (IDS, "ids of single calcifications")), 1):
        layer = Dataset()
        layer.GraphicLayer, layer.GraphicLayerOrder = name, order
        layer.GraphicLayerRecommendedDisplayCIELabValue = list(_AMBER_LAB)
        layer.GraphicLayerDescription = f"{run.plugin_title} {run.plugin_version}: {words}"[:64]
        layers.append(layer)
    return layers


def _annotations(run: RunInfo, findings: ImageFindings, image: Dataset) -> list[Dataset]:
    """Every mark with its id: that of a cluster at its side, those of its members in columns with a line to each."""
    marks, ids = Dataset(), Dataset()
    for item, layer in ((marks, LAYER), (ids, IDS)):
        item.ReferencedImageSequence = provenance.sequence(copy.deepcopy(image))
        item.GraphicLayer = layer
    marks.GraphicObjectSequence = provenance.sequence(*(_shape(run, findings, mark) for mark in findings.marks))
    names, texts = [], []
    for mark in findings.marks:
        if mark.parent is None:
            members = _members(run, findings, mark)
            names.append(_name(run, findings, mark, [float(each.BoundingBoxTopLeftHandCorner[1]) for each in members]))
            texts += members
    marks.TextObjectSequence = provenance.sequence(*names)
    if not texts:
        return [marks]
    ids.TextObjectSequence = provenance.sequence(*texts)
    return [marks, ids]


def _tracked(item: Dataset, run: RunInfo, findings: ImageFindings, mark: Mark) -> Dataset:
    """`item` with the identity of its mark, the same as in the reports (PS3.3 C.10.5)."""
    item.TrackingID, item.TrackingUID = mark.identifier, tracking_uid(run, findings, mark)
    return item


def _members(run: RunInfo, findings: ImageFindings, group: Mark) -> list[Dataset]:
    """The ids of a cluster's members, left and right of it from the top down, each with a line to its calcification."""
    members = [mark for mark in findings.marks if mark.parent == group.identifier]
    if not members:
        return []
    rows, columns = findings.image.data.shape
    down, across = findings.spacing
    high, wide, gap = _ID_MM[1] / down, _ID_MM[0] / across, 1.0 / across
    points = np.concatenate([group.points, *(mark.points for mark in members)])
    reach = np.array([places.extent(mark) for mark in (group, *members)])
    left, right = float(reach[:, 0].min()) - gap - wide, float(reach[:, 2].max()) + gap
    order = sorted(members, key=lambda mark: float(places.centre(mark)[0]))
    half = 0 if left < 0 else len(order) if right + wide > columns else (len(order) + 1) // 2
    texts: dict[str, Dataset] = {}
    for x, side, some in ((max(left, 0.0), "RIGHT", order[:half]), (right, "LEFT", order[half:])):
        start = float(points[:, 1].mean()) - len(some) * high / 2
        start = min(max(start, 0.0), max(rows - len(some) * high, 0.0))
        for row, mark in enumerate(sorted(some, key=lambda mark: float(places.centre(mark)[1]))):
            top, end = start + row * high, start + (row + 1) * high
            text = Dataset()
            text.BoundingBoxAnnotationUnits = text.AnchorPointAnnotationUnits = "PIXEL"
            text.BoundingBoxTopLeftHandCorner = _inside([x, top], rows, columns)
            text.BoundingBoxBottomRightHandCorner = _inside([x + wide, end], rows, columns)
            text.BoundingBoxTextHorizontalJustification = side
            text.UnformattedTextValue = mark.identifier
            text.AnchorPoint = _inside(places.centre(mark), rows, columns)
            text.AnchorPointVisibility = "Y"
            texts[mark.identifier] = _tracked(text, run, findings, mark)
    return [texts[mark.identifier] for mark in members]


def _inside(point: Sequence[float] | Array, rows: int, columns: int) -> list[float]:
    return [float(min(max(point[0], 0.0), columns)), float(min(max(point[1], 0.0), rows))]


def _shape(run: RunInfo, findings: ImageFindings, mark: Mark) -> Dataset:
    """One mark (PS3.3 C.10.5.1.2): PIXEL units, the corner of the first pixel is 0\\0, as in an SR."""
    points = places.on_image(mark, findings.image.data.shape)
    shape = Dataset()
    shape.GraphicAnnotationUnits, shape.GraphicDimensions = "PIXEL", 2
    if mark.shape == "polygon":
        if not np.array_equal(points[0], points[-1]):
            points = np.concatenate([points, points[:1]])
        shape.GraphicType = "POLYLINE"
    else:
        if mark.shape == "point":
            # A dot would hide the calcification: a small circle goes around it.
            edge = points[0] + np.array([_CIRCLE_MM / findings.spacing[1] / 2, 0.0])
            points = np.stack([points[0], edge])
        shape.GraphicType = "CIRCLE"
    shape.NumberOfGraphicPoints = len(points)
    shape.GraphicData = [float(each) for each in points.ravel()]
    shape.GraphicFilled = "N"
    return _tracked(shape, run, findings, mark)


def _name(run: RunInfo, findings: ImageFindings, mark: Mark, tops: Sequence[float]) -> Dataset:
    """The id and score of a mark above it, and above the ids of its members, which begin at `tops`."""
    rows, columns = findings.image.data.shape
    high, wide, gap = _NAME_MM[1] / findings.spacing[0], _NAME_MM[0] / findings.spacing[1], 1.0 / findings.spacing[0]
    start, top, _, _ = places.extent(mark)
    bottom = max(min([top, *tops]) - gap, high)
    left = max(min(start, columns - wide), 0.0)
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "PIXEL"
    text.BoundingBoxTopLeftHandCorner = _inside([left, bottom - high], rows, columns)
    text.BoundingBoxBottomRightHandCorner = _inside([left + wide, bottom], rows, columns)
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    text.UnformattedTextValue = f"{mark.identifier} {percent(mark.score)}"
    return _tracked(text, run, findings, mark)


def _look_up_tables(ds: Dataset, source: Dataset) -> None:
    """Modality, VOI and presentation look-up tables as the image has them (PS3.3 C.11.1, C.11.8, C.11.6)."""
    for keyword in _MODALITY:
        if source.get(keyword) not in (None, ""):
            ds.add(copy.deepcopy(source[keyword]))
    if "RescaleSlope" in ds or "RescaleIntercept" in ds:  # one without the other means the identity for the other
        ds.RescaleIntercept, ds.RescaleSlope = ds.get("RescaleIntercept", 0), ds.get("RescaleSlope", 1)
        ds.RescaleType = ds.get("RescaleType", "US")
    if "ModalityLUTSequence" in ds:
        for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType"):
            ds.pop(keyword, None)
    voi = Dataset()
    for keyword in _VOI:
        if source.get(keyword) not in (None, "", []):
            voi.add(copy.deepcopy(source[keyword]))
    if ("WindowWidth" in voi) != ("WindowCenter" in voi):
        for keyword in _VOI[:4]:
            voi.pop(keyword, None)
    if "WindowWidth" in voi or "VOILUTSequence" in voi:
        ds.SoftcopyVOILUTSequence = provenance.sequence(voi)
    ds.PresentationLUTShape = "INVERSE" if source.get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
