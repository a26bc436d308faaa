"""What objects and frames can be had in, by what they are stored in (PS3.18 8.7.3): offers for negotiation. Pure."""

from __future__ import annotations

from functools import lru_cache

from dicomweb.media_types import DICOM, OCTET_STREAM, Offer
from pacs.dicom.encode import ENCODED
from pacs.dicom.transfer_syntaxes import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
    TransferSyntax,
)

AS_STORED = "*"

FRAME_DEFAULTS = {
    "image/jpeg": "1.2.840.10008.1.2.4.70",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/jxl": "1.2.840.10008.1.2.4.110",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
}
"""What a media type without transfer-syntax means for pixel data (PS3.18 Table 8.7.3-5)."""


def served_as_stored(syntax: TransferSyntax) -> str:
    """The transfer syntax that `transfer-syntax=*` gives.

    Implicit VR Little Endian and Explicit VR Big Endian never leave over HTTP (PS3.18 8.7.3.5.2), so everything
    native goes out in Explicit VR Little Endian.
    """
    return EXPLICIT_LITTLE_ENDIAN if syntax.codec == "native" else syntax.uid


def in_company_of(images_in: str, stored: TransferSyntax) -> str:
    """The transfer syntax of what has no frames, between images that are wanted in `images_in`.

    A report cannot be in JPEG 2000: it keeps to the one that its resource category has, Explicit VR Little Endian
    (PS3.18 Table 8.7.3-2). Each part has a transfer syntax of its own (8.7.8.2), which its header says.
    """
    return EXPLICIT_LITTLE_ENDIAN if images_in in ENCODED and stored.uid != images_in else images_in


@lru_cache(maxsize=512)
def of_objects(stored: frozenset[str], *, images: bool, single: bool) -> tuple[Offer, ...]:
    """What instances in these transfer syntaxes can be had in; `images` says that there are some with frames.

    All in Explicit VR Little Endian where we can decode them, or as stored; images also in what we can encode, what
    has no frames beside them as `in_company_of` says. Where not all can be decoded, as stored is also the default:
    lossy video has no other form (PS3.18 8.7.3.5).
    """
    syntaxes = [TRANSFER_SYNTAXES[uid] for uid in stored]
    served = {served_as_stored(syntax) for syntax in syntaxes}
    decodable = all(syntax.codec is not None for syntax in syntaxes)
    offers = []
    if decodable:
        only = served == {EXPLICIT_LITTLE_ENDIAN}
        offers.append(Offer(DICOM, True, EXPLICIT_LITTLE_ENDIAN, default=True, as_stored=only))
    if served != {EXPLICIT_LITTLE_ENDIAN}:
        kept = next(iter(served)) if len(served) == 1 else AS_STORED
        offers.append(Offer(DICOM, True, kept, default=not decodable, as_stored=True))
    if decodable:
        there = {offer.transfer_syntax for offer in offers}
        made = [DEFLATED_LITTLE_ENDIAN, *(ENCODED if images else ())]
        offers += [Offer(DICOM, True, uid, default=False) for uid in made if uid not in there]
    return _with_single(offers, single=single)


@lru_cache(maxsize=512)
def of_frames(stored: str, *, single: bool) -> tuple[Offer, ...]:
    """What the frames of an instance in this transfer syntax can be had in (PS3.18 Table 8.7.3-5).

    Uncompressed by default where we can decode them. The stored codestream goes by its own media type, and also
    answers `application/octet-stream; transfer-syntax=*`, which is what viewers ask for; then what we can encode.
    """
    syntax = TRANSFER_SYNTAXES[stored]
    offers = []
    if syntax.codec is not None:
        native = not syntax.encapsulated
        offers.append(Offer(OCTET_STREAM, True, EXPLICIT_LITTLE_ENDIAN, default=True, as_stored=native))
    own = None
    if syntax.encapsulated and syntax.media_type is not None:
        own = syntax.media_type
        unlike = own != OCTET_STREAM
        aliases = (OCTET_STREAM,) if unlike else ()
        # A range without transfer-syntax names the stored codestream only by its own media type.
        default = unlike or syntax.codec is None
        offers.append(Offer(own, True, syntax.uid, default=default, as_stored=True, aliases=aliases))
    if syntax.codec is not None:
        for media_type, uid in FRAME_DEFAULTS.items():
            if uid != stored:
                offers.append(Offer(media_type, True, uid, default=media_type != own))
        for uid in ENCODED:
            kind = TRANSFER_SYNTAXES[uid].media_type
            if uid != stored and uid not in FRAME_DEFAULTS.values() and kind is not None:
                offers.append(Offer(kind, True, uid, default=False))
    return _with_single(offers, single=single)


def _with_single(offers: list[Offer], *, single: bool) -> tuple[Offer, ...]:
    alone = [Offer(o.media_type, False, o.transfer_syntax, o.default, o.as_stored, o.aliases) for o in offers]
    return (*offers, *(alone if single else ()))
