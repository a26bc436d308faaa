"""Presentation states rendered: the images that a state names, as it presents them (PS3.18 10.4.1.1.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb import frames
from dicomweb.calls import Call
from dicomweb.rendered.images import described, extras, filled, is_image
from dicomweb.rendered.parameters import Rendering
from pacs.auth import Right
from pacs.dicom import presentation
from pacs.dicom import render as drawing
from pacs.dicom.presentation import SOP_CLASSES
from pacs.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from pacs.retrieve import InstanceLocation


def is_state(location: InstanceLocation) -> bool:
    """Whether it is a presentation state that we can render images with."""
    return location.sop_class_uid in SOP_CLASSES


def check(how: Rendering) -> None:
    """Nothing, or InvalidInput for parameters that a presentation state rules out (8.3.5.1.3.2, 8.3.5.1.4)."""
    if how.window is not None:
        raise InvalidInput("a presentation state has a window of its own", about="window")
    if how.viewport is not None and len(how.viewport) != 2:
        raise InvalidInput("a presentation state has a region of its own", about="viewport")


def targets(call: Call, state: InstanceLocation) -> list[tuple[InstanceLocation, int]]:
    """The frames that a state presents, of images that are here, in its order. Blocks. Raises NotFound for none."""
    principal = call.principal(Right.READ)
    found: list[tuple[InstanceLocation, int]] = []
    for image in presentation.referenced(frames.attributes(call.archive, state)):
        try:
            [location] = call.archive.retrieve.locate(
                principal, state.study_instance_uid, image.series_instance_uid, image.sop_instance_uid
            )
        except NotFound:
            continue
        if is_image(location) and location.frames is not None:
            count = location.frames.number_of_frames
            numbers = [number for number in image.frames if 1 <= number <= count] or range(1, count + 1)
            found.extend((location, number) for number in numbers)
    if not found:
        raise NotFound("none of the images that the state presents is here", about=state.sop_instance_uid)
    return found


def drawn(
    call: Call, state: InstanceLocation, location: InstanceLocation, number: int, how: Rendering, media_type: str
) -> bytes:
    """One frame of an image as a state presents it. Blocks. Raises InvalidInput and Undecodable."""
    check(how)
    archive = call.archive
    metadata = frames.attributes(archive, location)
    needed, _ = drawing.relevant(metadata, number)
    said = filled(archive, state, presentation.needed(frames.attributes(archive, state)))
    return archive.decoding.present(
        archive.retrieve.frame(location, number),
        described(metadata, location),
        filled(archive, location, needed),
        said,
        sop_instance_uid=location.sop_instance_uid,
        frame_number=number,
        viewport=how.viewport,
        quality=how.quality,
        media_type=media_type,
        extras=extras(archive, location, metadata, number, how),
    )
