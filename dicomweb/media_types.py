"""Which media type an answer gets: the Accept header and parameter against what we can offer (PS3.18 8.7.8.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pacs.errors import ArchiveError, InvalidInput

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
JSON = "application/json"
OCTET_STREAM = "application/octet-stream"
MULTIPART = "multipart/related"
JPEG = "image/jpeg"
PNG = "image/png"

MAX_RANGES = 64
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE = re.compile(rf"\s*({_NAME})/({_NAME})\s*")
_PARAMETER = re.compile(rf'\s*;\s*(?:({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))\s*)?')
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_TYPED_PLUS = re.compile(r"(?<=[a-z0-9]) (?=(?:json|xml)\b)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")


class NotAcceptable(ArchiveError):
    """Nothing that the client would take is something we can make (PS3.18 8.7.8.1 step 5)."""


class UnsupportedMediaType(ArchiveError):
    """The body is of a type that this resource does not take, or is encoded."""


class UnsupportedEncoding(UnsupportedMediaType):
    """The body has a Content-Encoding."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One representation we can make: of `media_type`, as parts of a multipart/related or as the body itself.

    `transfer_syntax` is None where the type has none and "*" where each object keeps its own. `default` offers answer
    a range that names no transfer syntax, `as_stored` offers answer `transfer-syntax=*`. `aliases` are further names.
    """

    media_type: str
    multipart: bool = False
    transfer_syntax: str | None = None
    default: bool = True
    as_stored: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One member of an Accept list. `media_type` is that of the parts where `multipart`; both may hold wildcards."""

    media_type: str
    multipart: bool
    transfer_syntax: str | None
    q: float
    position: int

    def specificity(self, offer: Offer) -> int:
        """How closely this range names the offer; -1 where it does not."""
        anything = self.media_type == "*/*"
        if self.multipart != offer.multipart and (self.multipart or not anything):
            return -1
        if anything:
            score = 2 if self.multipart else 0
        elif self.media_type == offer.media_type or self.media_type in offer.aliases:
            score = 6
        elif self.media_type.endswith("/*") and offer.media_type.startswith(self.media_type[:-1]):
            score = 4
        else:
            return -1
        if self.transfer_syntax is None:
            return score if offer.default else -1
        if self.transfer_syntax == "*":
            return score + 1 if offer.as_stored or offer.transfer_syntax is None else -1
        return score + 1 if self.transfer_syntax == offer.transfer_syntax else -1


def parse(text: str) -> tuple[str, dict[str, str]]:
    """A media type as ("type/subtype", parameters), names in lower case, quotes taken off (RFC 9110 8.3.1).

    Raises InvalidInput for text that is no media type.
    """
    found = _TYPE.match(text)
    if found is None:
        raise InvalidInput("no media type could be read")
    parameters: dict[str, str] = {}
    at = found.end()
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None or parameter.end() == at:
            raise InvalidInput("a media type parameter could not be read")
        name, quoted, plain = parameter.groups()
        if name is not None:
            parameters.setdefault(name.lower(), _ESCAPED.sub(r"\1", quoted) if quoted is not None else plain)
        at = parameter.end()
    return f"{found[1]}/{found[2]}".lower(), parameters


def ranges(text: str) -> list[MediaRange]:
    """The members of an Accept list that can be understood, in their order; the others are ignored (8.7.7)."""
    found: list[MediaRange] = []
    for position, member in enumerate(_MEMBER.findall(text)[:MAX_RANGES]):
        try:
            media_type, parameters = parse(member)
            multipart = media_type in (MULTIPART, "multipart/*")
            if multipart:
                media_type, _ = parse(parameters.get("type") or "*/*")
        except InvalidInput:
            continue
        quality = parameters.get("q", "1")
        if _QUALITY.fullmatch(quality) is None:
            continue
        found.append(MediaRange(media_type, multipart, parameters.get("transfer-syntax"), float(quality), position))
    return found


def _best(asked: Sequence[MediaRange], offers: Sequence[Offer]) -> Offer | None:
    # RFC 9110 12.5.1: the most specific range that matches an offer gives its quality, so that `;q=0` can exclude one.
    chosen: Offer | None = None
    best: tuple[float, int, int] | None = None
    for offer in offers:
        matching = [(r.specificity(offer), -r.position, r.q) for r in asked]
        specificity, position, quality = max((m for m in matching if m[0] >= 0), default=(-1, 0, 0.0))
        if specificity >= 0 and quality > 0 and (best is None or (quality, specificity, position) > best):
            chosen, best = offer, (quality, specificity, position)
    return chosen


def negotiate(offers: Sequence[Offer], header: str | None, parameters: Sequence[str] = ()) -> Offer:
    """The offer to make: by the accept query parameters first, then by the Accept header (8.7.8.1).

    `offers` are in our order of preference; the first is the default of the category, which a request without any
    Accept gets too (the standard would allow 406 there). An Accept that names nothing is as none: RFC 9110 12.5.1
    allows the empty list, and nothing that we have is excluded by it. Raises NotAcceptable.
    """
    header = None if header is None or not header.strip(" \t,") else header
    if parameters:
        # A plus sign that a person typed into a URL arrives as a space.
        asked = ranges(_TYPED_PLUS.sub("+", ",".join(parameters)))
        chosen = _best(asked, offers)
        if chosen is not None:
            return chosen
    elif header is None and offers:
        return offers[0]
    chosen = _best(ranges(header or ""), offers)
    if chosen is None:
        raise NotAcceptable("none of the acceptable media types and transfer syntaxes can be offered here")
    return chosen


def accepts_gzip(header: str | None) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110 12.5.3)."""
    allowed = {"gzip": -1.0, "*": -1.0}
    for member in (header or "").lower().split(","):
        name, _, parameter = member.partition(";")
        quality = parameter.strip().removeprefix("q=") or "1"
        if name.strip() in allowed:
            allowed[name.strip()] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    return (allowed["gzip"] if allowed["gzip"] >= 0 else allowed["*"]) > 0
