"""Owns the check of presentation states: layers, graphics and their area (PS3.3 C.10.4, C.10.5, C.10.7)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset

_PAIRS = {"POINT": (1, 1), "CIRCLE": (2, 2), "ELLIPSE": (4, 4), "POLYLINE": (2, 10**6), "INTERPOLATED": (2, 10**6)}


def defects(ds: Dataset) -> Iterator[str]:
    """What is wrong with a presentation state, in words; nothing for what is none."""
    if ds.get("Modality") != "PR":
        return
    layers = [str(each.get("GraphicLayer")) for each in ds.get("GraphicLayerSequence") or ()]
    if len(set(layers)) < len(layers):
        yield "two graphic layers of one name"
    images = {
        str(image.get("ReferencedSOPInstanceUID"))
        for series in ds.get("ReferencedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    }
    columns, rows = 0, 0
    for area in ds.get("DisplayedAreaSelectionSequence") or ():
        left, top = area.get("DisplayedAreaTopLeftHandCorner") or (1, 1)
        columns, rows = area.get("DisplayedAreaBottomRightHandCorner") or (0, 0)
        if columns < left or rows < top:
            yield "a displayed area without extent"
    for annotation in ds.get("GraphicAnnotationSequence") or ():
        if str(annotation.get("GraphicLayer")) not in layers:
            yield "an annotation on a layer that is not there"
        named = {str(each.get("ReferencedSOPInstanceUID")) for each in annotation.get("ReferencedImageSequence") or ()}
        if not named <= images:
            yield "an annotation of an image that the state does not present"
        if not annotation.get("GraphicObjectSequence") and not annotation.get("TextObjectSequence"):
            yield "an annotation of nothing"
        for graphic in annotation.get("GraphicObjectSequence") or ():
            yield from _graphic(graphic, int(columns), int(rows))
        for text in annotation.get("TextObjectSequence") or ():
            if not text.get("UnformattedTextValue"):
                yield "a text object without text"
            if "AnchorPoint" not in text and "BoundingBoxTopLeftHandCorner" not in text:
                yield "a text object without a place"


def _graphic(graphic: Dataset, columns: int, rows: int) -> Iterator[str]:
    data = [float(each) for each in graphic.get("GraphicData") or ()]
    kind, points = str(graphic.get("GraphicType") or ""), int(graphic.get("NumberOfGraphicPoints") or 0)
    low, high = _PAIRS.get(kind, (0, -1))
    if graphic.get("GraphicDimensions") != 2 or len(data) != 2 * points or not low <= points <= high:
        yield "a graphic whose data do not fit its type and number of points"
    elif graphic.get("GraphicAnnotationUnits") == "PIXEL":
        # A circle's second point lies on its edge, which may reach over the border (C.10.5.1.2)
        inside = data[:2] if kind == "CIRCLE" else data
        if not all(0 <= x <= columns + 1 for x in inside[::2]) or not all(0 <= y <= rows + 1 for y in inside[1::2]):
            yield "a graphic outside of the image"
