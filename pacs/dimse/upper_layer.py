"""The DICOM Upper Layer's protocol data units (PS3.8 section 9.3) as values.

Pure: bytes in, values out and back. Every length is checked against what is really there before it is used, and
whatever is wrong raises ProtocolError, which the acceptor turns into an A-ABORT.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
PROTOCOL_VERSION = 1
HEADER_LENGTH = 6
MAX_ASSOCIATE_LENGTH = 256 << 10
"""Longest A-ASSOCIATE PDU believed: 128 presentation contexts with every transfer syntax there is take 160 KiB."""

MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers between 1 and 255


class PDUType(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class AbortSource(IntEnum):
    """Who aborts (PS3.8 Table 9-26)."""

    USER = 0
    PROVIDER = 2


class AbortReason(IntEnum):
    """Why the provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER_VALUE = 6


class ProtocolError(Exception):
    """What the peer sent breaks PS3.8 or PS3.7; the only remedy is an A-ABORT with this reason and source."""

    def __init__(
        self,
        what: str,
        reason: AbortReason = AbortReason.INVALID_PARAMETER_VALUE,
        source: AbortSource = AbortSource.PROVIDER,
    ) -> None:
        super().__init__(what)
        self.reason = reason
        self.source = source


class ContextResult(IntEnum):
    """Results of a presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class Rejection(Enum):
    """Ways to say no to an association: (result, source, reason) of PS3.8 Table 9-21."""

    NO_REASON = (1, 1, 1)
    APPLICATION_CONTEXT = (1, 1, 2)
    CALLING_AE_TITLE = (1, 1, 3)
    CALLED_AE_TITLE = (1, 1, 7)
    PROTOCOL_VERSION = (1, 2, 2)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as the requestor proposes it."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The answer to a presentation context; the transfer syntax means something only when it was accepted."""

    id: int
    result: ContextResult
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Role:
    """SCP/SCU role selection for a SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class CommonExtended:
    """What a SOP class specialises (PS3.7 D.3.3.6)."""

    sop_class_uid: str
    service_class_uid: str
    related_sop_class_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """A user identity as offered (PS3.7 D.3.3.7): type 1 to 5, with fields that are nobody's to log."""

    type: int
    response_requested: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user data of an association, either direction (PS3.8 annex D, PS3.7 annex D)."""

    max_length: int = 0
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    asynchronous_operations: tuple[int, int] | None = None
    roles: tuple[Role, ...] = ()
    extended: tuple[tuple[str, bytes], ...] = ()
    common_extended: tuple[CommonExtended, ...] = ()
    identity: UserIdentity | None = None
    identity_response: bytes | None = None


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ProposedContext, ...]
    user: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """A-ASSOCIATE-AC (PS3.8 9.3.3); the titles are those of the request, which the standard wants sent back."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[ContextAnswer, ...]
    user: UserInformation


# --- encode -----------------------------------------------------------------------------------------------------------


def encode_request(request: AssociateRequest) -> bytes:
    """`request` as an A-ASSOCIATE-RQ PDU."""
    items = [
        _item(
            0x20, bytes((c.id, 0, 0, 0)), _item(0x30, c.abstract_syntax), *(_item(0x40, t) for t in c.transfer_syntaxes)
        )
        for c in request.contexts
    ]
    return _associate(PDUType.ASSOCIATE_RQ, request.protocol_version, request, request.application_context, items)


def encode_accept(accept: AssociateAccept) -> bytes:
    """`accept` as an A-ASSOCIATE-AC PDU."""
    items = [_item(0x21, bytes((c.id, 0, c.result, 0)), _item(0x40, c.transfer_syntax)) for c in accept.contexts]
    return _associate(PDUType.ASSOCIATE_AC, PROTOCOL_VERSION, accept, APPLICATION_CONTEXT, items)


def encode_reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ PDU (PS3.8 9.3.4)."""
    return struct.pack(">BBI4B", PDUType.ASSOCIATE_RJ, 0, 4, 0, *rejection.value)


def encode_abort(source: AbortSource, reason: AbortReason = AbortReason.NOT_SPECIFIED) -> bytes:
    """An A-ABORT PDU (PS3.8 9.3.8); the reason counts only where the provider aborts."""
    return struct.pack(">BBI4B", PDUType.ABORT, 0, 4, 0, 0, source, reason if source is AbortSource.PROVIDER else 0)


RELEASE_REQUEST = struct.pack(">BBII", PDUType.RELEASE_RQ, 0, 4, 0)
RELEASE_RESPONSE = struct.pack(">BBII", PDUType.RELEASE_RP, 0, 4, 0)


def _item(kind: int, *parts: bytes | str) -> bytes:
    body = b"".join(part.encode("ascii") if isinstance(part, str) else part for part in parts)
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _counted(value: bytes | str) -> bytes:
    raw = value.encode("ascii") if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def _associate(
    kind: PDUType, version: int, pdu: AssociateRequest | AssociateAccept, application: str, contexts: list[bytes]
) -> bytes:
    # latin-1 gives back the very bytes of the title fields that came in
    called, calling = (title.encode("latin-1").ljust(16)[:16] for title in (pdu.called_ae_title, pdu.calling_ae_title))
    user = pdu.user
    parts = [_item(0x51, struct.pack(">I", user.max_length)), _item(0x52, user.implementation_class_uid)]
    if user.asynchronous_operations is not None:
        parts.append(_item(0x53, struct.pack(">HH", *user.asynchronous_operations)))
    parts += [_item(0x54, _counted(role.sop_class_uid), bytes((role.scu, role.scp))) for role in user.roles]
    if user.implementation_version_name:
        parts.append(_item(0x55, user.implementation_version_name))
    parts += [_item(0x56, _counted(uid), information) for uid, information in user.extended]
    for common in user.common_extended:
        related = b"".join(map(_counted, common.related_sop_class_uids))
        parts.append(_item(0x57, _counted(common.sop_class_uid), _counted(common.service_class_uid), _counted(related)))
    if (identity := user.identity) is not None:
        head = bytes((identity.type, identity.response_requested))
        parts.append(_item(0x58, head, _counted(identity.primary), _counted(identity.secondary)))
    if user.identity_response is not None:
        parts.append(_item(0x59, _counted(user.identity_response)))
    body = struct.pack(">HH16s16s32x", version, 0, called, calling)
    body += _item(0x10, application) + b"".join(contexts) + _item(0x50, *parts)
    return struct.pack(">BBI", kind, 0, len(body)) + body


# --- decode -----------------------------------------------------------------------------------------------------------


def decode_header(header: bytes | bytearray | memoryview) -> tuple[int, int]:
    """The type and length of the PDU whose first six bytes these are; nothing is said about either being sensible."""
    kind, _, length = struct.unpack_from(">BBI", header)
    return kind, length


def check_length(kind: int, length: int, max_data_length: int) -> None:
    """Nothing, or ProtocolError where a PDU of this type is unknown or cannot have this length (PS3.8 9.3.1)."""
    match kind:
        case PDUType.DATA:
            if not HEADER_LENGTH <= length <= max_data_length:
                raise ProtocolError(f"P-DATA-TF of {length} bytes; {max_data_length} were offered")
        case PDUType.ASSOCIATE_RQ | PDUType.ASSOCIATE_AC:
            if not 68 <= length <= MAX_ASSOCIATE_LENGTH:
                raise ProtocolError(f"A-ASSOCIATE of {length} bytes")
        case PDUType.ASSOCIATE_RJ | PDUType.RELEASE_RQ | PDUType.RELEASE_RP | PDUType.ABORT:
            if length != 4:
                raise ProtocolError(f"PDU type {kind} of {length} bytes instead of 4")
        case _:
            raise ProtocolError(f"unknown PDU type {kind}", AbortReason.UNRECOGNIZED_PDU)


def decode_request(body: bytes | bytearray | memoryview) -> AssociateRequest:
    """The A-ASSOCIATE-RQ whose bytes after the PDU header are `body`. Raises ProtocolError and nothing else."""
    version, called, calling, items = _associate_items(body)
    application, contexts, user = "", dict[int, ProposedContext](), None
    for kind, value in items:
        if kind == 0x10 and not application:
            application = _uid(value)
        elif kind == 0x20:
            context = _proposed_context(value)
            if context.id in contexts or len(contexts) == MAX_CONTEXTS:
                raise ProtocolError(f"presentation context {context.id} twice, or more than {MAX_CONTEXTS}")
            contexts[context.id] = context
        elif kind == 0x50 and user is None:
            user = _user_information(value)
        elif kind in (0x10, 0x50):
            raise ProtocolError(f"item {kind:02X} twice", AbortReason.UNEXPECTED_PARAMETER)
        # PS3.8 9.3.1: items of unrecognised types are ignored
    if not contexts or user is None:
        raise ProtocolError("A-ASSOCIATE-RQ without presentation contexts or user information")
    return AssociateRequest(called, calling, tuple(contexts.values()), user, application, version)


def decode_accept(body: bytes | bytearray | memoryview) -> AssociateAccept:
    """The A-ASSOCIATE-AC whose bytes after the PDU header are `body`. Raises ProtocolError and nothing else."""
    _, called, calling, items = _associate_items(body)
    contexts, user = list[ContextAnswer](), UserInformation()
    for kind, value in items:
        if kind == 0x21:
            if len(value) < 4 or value[2] > 4:
                raise ProtocolError("presentation context answer cut short or of unknown result")
            names = [_uid(sub) for sub_kind, sub in _items(value[4:]) if sub_kind == 0x40]
            contexts.append(ContextAnswer(value[0], ContextResult(value[2]), names[0] if names else ""))
        elif kind == 0x50:
            user = _user_information(value)
    return AssociateAccept(called, calling, tuple(contexts), user)


def _associate_items(body: bytes | bytearray | memoryview) -> tuple[int, str, str, Iterator[tuple[int, memoryview]]]:
    if not 68 <= len(body) <= MAX_ASSOCIATE_LENGTH:
        raise ProtocolError(f"A-ASSOCIATE of {len(body)} bytes")
    version, called, calling = struct.unpack_from(">H2x16s16s", body)
    titles = [title.decode("latin-1").strip(" \0") for title in (called, calling)]
    return version, titles[0], titles[1], _items(memoryview(body)[68:])


def _items(area: memoryview) -> Iterator[tuple[int, memoryview]]:
    at, end = 0, len(area)
    while at < end:
        if at + 4 > end:
            raise ProtocolError("item header cut short")
        kind, length = struct.unpack_from(">BxH", area, at)
        at += 4
        if at + length > end:
            raise ProtocolError(f"item {kind:02X} is longer than what holds it")
        yield kind, area[at : at + length]
        at += length


def _uid(value: memoryview) -> str:
    # Padding with NUL or space is wrong (PS3.8 annex F) but seen; what is left need not be a valid UID, only ASCII
    raw = bytes(value).rstrip(b"\0 ")
    if len(raw) > 64 or not raw.isascii():
        raise ProtocolError("a UID of more than 64 characters, or not in ASCII")
    return raw.decode("ascii")


def _take(value: memoryview, at: int) -> tuple[memoryview, int]:
    """The field that starts with its two-byte length at `at`, and where it ends."""
    if at + 2 > len(value):
        raise ProtocolError("field length cut short")
    (length,) = struct.unpack_from(">H", value, at)
    if at + 2 + length > len(value):
        raise ProtocolError("field is longer than its item")
    return value[at + 2 : at + 2 + length], at + 2 + length


def _proposed_context(value: memoryview) -> ProposedContext:
    if len(value) < 4 or not value[0] & 1:
        raise ProtocolError("presentation context cut short, or with an even identifier")
    abstract, syntaxes = None, list[str]()
    for kind, sub in _items(value[4:]):
        if kind == 0x30 and abstract is None:
            abstract = _uid(sub)
        elif kind == 0x40:
            syntaxes.append(_uid(sub))
        else:
            raise ProtocolError("unexpected sub-item in a presentation context", AbortReason.UNEXPECTED_PARAMETER)
    if abstract is None or not syntaxes:
        raise ProtocolError("presentation context without an abstract or transfer syntax")
    return ProposedContext(value[0], abstract, tuple(syntaxes))


def _user_information(value: memoryview) -> UserInformation:
    # A peer that states no maximum gets PDUs of the size that everybody can read
    max_length, class_uid, version_name, window, identity, response = 16384, "", "", None, None, None
    roles, extended, common = list[Role](), list[tuple[str, bytes]](), list[CommonExtended]()
    for kind, sub in _items(value):
        if kind in (0x51, 0x53) and len(sub) != 4:
            raise ProtocolError(f"sub-item {kind:02X} of {len(sub)} bytes instead of 4")
        match kind:
            case 0x51:
                (max_length,) = struct.unpack(">I", sub)
            case 0x52:
                class_uid = _uid(sub)
            case 0x53:
                invoked, performed = struct.unpack(">HH", sub)
                window = (invoked, performed)
            case 0x54:
                name, at = _take(sub, 0)
                if at + 2 != len(sub):
                    raise ProtocolError("role selection of a wrong length")
                roles.append(Role(_uid(name), bool(sub[at]), bool(sub[at + 1])))
            case 0x55:
                version_name = bytes(sub[:16]).decode("latin-1").strip()
            case 0x56:
                name, at = _take(sub, 0)
                extended.append((_uid(name), bytes(sub[at:])))
            case 0x57:
                common.append(_common_extended(sub))
            case 0x58:
                if len(sub) < 2:
                    raise ProtocolError("user identity cut short")
                primary, at = _take(sub, 2)
                secondary, _ = _take(sub, at)
                identity = UserIdentity(sub[0], bool(sub[1]), bytes(primary), bytes(secondary))
            case 0x59:
                response = bytes(_take(sub, 0)[0])
    return UserInformation(
        max_length, class_uid, version_name, window, tuple(roles), tuple(extended), tuple(common), identity, response
    )


def _common_extended(sub: memoryview) -> CommonExtended:
    sop_class, at = _take(sub, 0)
    service_class, at = _take(sub, at)
    related, _ = _take(sub, at) if at < len(sub) else (sub[:0], at)  # later versions may add fields behind it
    names, at = list[str](), 0
    while at < len(related):
        name, at = _take(related, at)
        names.append(_uid(name))
    return CommonExtended(_uid(sop_class), _uid(service_class), tuple(names))
