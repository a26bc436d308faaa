"""What an association may be used for: the answer to an A-ASSOCIATE-RQ, as a function of the request and a policy.

Presentation contexts (PS3.8 9.3.2.2, annex B), roles, extended and common extended negotiation, the asynchronous
operations window and user identity (PS3.7 D.3.3).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pacs.dimse.upper_layer import (
    APPLICATION_CONTEXT,
    PROTOCOL_VERSION,
    AssociateAccept,
    AssociateRequest,
    ContextAnswer,
    ContextResult,
    ProposedContext,
    Rejection,
    Role,
    UserInformation,
)
from pacs.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
FIND_CLASSES = frozenset({PATIENT_ROOT_FIND, STUDY_ROOT_FIND})
STORAGE_SERVICE_CLASS = "1.2.840.10008.4.2"

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MESSAGE_SYNTAXES = frozenset({IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED})
"""Transfer syntaxes in which identifiers are read and written."""

MIN_PEER_LENGTH = 16
"""A peer's maximum P-DATA-TF length below this leaves no room for a fragment worth sending."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What this acceptor is willing to do: the SOP classes stored, in which transfer syntaxes, in PDUs of what size."""

    ae_title: str
    storage: Collection[str]
    transfer_syntaxes: Collection[str]
    unknown_storage: bool = False
    max_length: int = 256 << 10
    relational: bool = True
    fuzzy: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The A-ASSOCIATE-AC to send, the contexts that it opens, and what was agreed about C-FIND."""

    accept: AssociateAccept
    contexts: dict[int, Context]
    relational: frozenset[str]
    fuzzy: frozenset[str]


def refusal(request: AssociateRequest, ae_title: str) -> Rejection | None:
    """Why `request` cannot be an association with `ae_title` at all; None where it can. AE rights are not judged."""
    if not request.protocol_version & PROTOCOL_VERSION:
        return Rejection.PROTOCOL_VERSION
    if request.application_context != APPLICATION_CONTEXT:
        return Rejection.APPLICATION_CONTEXT
    if request.called_ae_title != ae_title:
        return Rejection.CALLED_AE_TITLE
    if not _is_ae_title(request.calling_ae_title):
        return Rejection.CALLING_AE_TITLE
    if 0 < request.user.max_length < MIN_PEER_LENGTH:
        return Rejection.NO_REASON
    return None


def is_verification_only(request: AssociateRequest) -> bool:
    """Whether nothing but C-ECHO is asked for: the question "are you alive", which no flood may drown."""
    return all(context.abstract_syntax == VERIFICATION for context in request.contexts)


def negotiate(request: AssociateRequest, policy: Policy) -> Negotiated:
    """The answer to `request`: every context gets its result, every negotiation item that asks for one its answer."""
    related = {
        common.sop_class_uid: common.related_sop_class_uids
        for common in request.user.common_extended
        if common.service_class_uid == STORAGE_SERVICE_CLASS
    }
    roles = {role.sop_class_uid: role for role in request.user.roles}
    answers = [_answer(proposed, policy, related, roles) for proposed in request.contexts]
    contexts = {
        answer.id: Context(answer.id, proposed.abstract_syntax, answer.transfer_syntax)
        for proposed, answer in zip(request.contexts, answers, strict=True)
        if answer.result is ContextResult.ACCEPTANCE
    }
    served = {context.abstract_syntax for context in contexts.values()}
    extended = tuple((uid, _extended(uid, asked, policy)) for uid, asked in request.user.extended if uid in served)
    options = {uid: information for uid, information in extended if uid in FIND_CLASSES}
    user = UserInformation(
        max_length=policy.max_length,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        asynchronous_operations=(1, 1) if request.user.asynchronous_operations else None,
        # The requestor is the SCU of everything that is served here; nobody is asked to be an SCP (PS3.7 D.3.3.4)
        roles=tuple(Role(uid, role.scu, False) for uid, role in roles.items() if uid in served),
        extended=extended,
        # PS3.7 D.3.3.7: user identity gets no answer from an acceptor that does not use it; D.3.3.6 knows none
    )
    accept = AssociateAccept(request.called_ae_title, request.calling_ae_title, tuple(answers), user)
    return Negotiated(
        accept,
        contexts,
        frozenset(uid for uid, flags in options.items() if flags[:1] == b"\1"),
        frozenset(uid for uid, flags in options.items() if flags[2:3] == b"\1"),
    )


def _answer(
    proposed: ProposedContext, policy: Policy, related: dict[str, tuple[str, ...]], roles: dict[str, Role]
) -> ContextAnswer:
    uid = proposed.abstract_syntax
    if uid == VERIFICATION or uid in FIND_CLASSES:
        readable: Collection[str] = MESSAGE_SYNTAXES
    elif _is_storage(uid, policy) or any(name in policy.storage for name in related.get(uid, ())):
        readable = policy.transfer_syntaxes
    else:
        return _no(proposed, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED)
    if uid in roles and not roles[uid].scu:
        return _no(proposed, ContextResult.USER_REJECTION)
    for syntax in proposed.transfer_syntaxes:
        if syntax in readable:
            return ContextAnswer(proposed.id, ContextResult.ACCEPTANCE, syntax)
    return _no(proposed, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED)


def _is_storage(uid: str, policy: Policy) -> bool:
    # Of those in no table: private ones, and newer ones under the arc of the Storage SOP Classes
    unknown = not uid.startswith("1.2.840.10008.") or uid.startswith("1.2.840.10008.5.1.4.1.1.")
    return uid in policy.storage or (policy.unknown_storage and unknown)


def _no(proposed: ProposedContext, result: ContextResult) -> ContextAnswer:
    # PS3.8 9.3.3.2: a transfer syntax has to be there even where it means nothing; the default one always may be
    return ContextAnswer(proposed.id, result, IMPLICIT_LE)


def _extended(uid: str, asked: bytes, policy: Policy) -> bytes:
    """The Service-class-application-information to answer with, never longer than what was asked."""
    if uid in FIND_CLASSES:
        # PS3.4 C.5.1.1: relational queries, combined date-time matching, fuzzy matching of names, timezone adjustment,
        # enhanced multi-frame conversion
        able = bytes((policy.relational, 0, policy.fuzzy, 0, 0))
        return bytes(a & b for a, b in zip(asked, able, strict=False))
    # PS3.4 B.3.1: Level 2 (full) storage, no level of digital signature support stated, no element coerced
    return bytes((2, 0, 0, 0, 0, 0))


def _is_ae_title(text: str) -> bool:
    return bool(text) and all(" " <= char <= "~" and char != "\\" for char in text)
