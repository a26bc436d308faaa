"""Rendered resources (PS3.18 8.3.5, 10.4.1.1.3): images, reports, documents, videos and models for people."""

from __future__ import annotations

from dicomweb.rendered.images import frame, image_offers, is_image, render
from dicomweb.rendered.parameters import (
    DEFAULT_QUALITY,
    WHOLE,
    Rendering,
    chosen,
    parse_quality,
    parse_viewport,
    parse_window,
    rendering,
    warnings,
)
from dicomweb.rendered.resources import instances, thumbnail
from dicomweb.rendered.states import drawn as presented
from dicomweb.rendered.states import is_state, targets

__all__ = [
    "DEFAULT_QUALITY",
    "WHOLE",
    "Rendering",
    "chosen",
    "frame",
    "image_offers",
    "instances",
    "is_image",
    "is_state",
    "parse_quality",
    "parse_viewport",
    "parse_window",
    "presented",
    "render",
    "rendering",
    "targets",
    "thumbnail",
    "warnings",
]
