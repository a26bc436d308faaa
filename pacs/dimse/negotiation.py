"""What an association may be used for: the answer to an A-ASSOCIATE-RQ, as a function of the request and a policy.

Presentation contexts (PS3.8 9.3.2.2, annex B), roles, extended and common extended negotiation, the asynchronous
operations window and user identity (PS3.7 D.3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pacs.dimse.operation import Service

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
    fuzzy: bool = True
    services: tuple[Service, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context; `scu` and `scp` are the requestor's roles in it (PS3.7 D.3.3.4)."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    service: Service | None = None
    scu: bool = True
    scp: bool = False


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The A-ASSOCIATE-AC to send, the contexts that it opens, and what was agreed about C-FIND."""

    accept: AssociateAccept
    contexts: dict[int, Context]
    relational: frozenset[str]
    fuzzy: frozenset[str]
    extended: dict[str, bytes] = field(default_factory=dict)


Extended = Callable[[bytes, Policy], bytes]
"""The Service-class-application-information to answer with, never longer than what was asked; empty = no answer."""


def no_answer(asked: bytes, policy: Policy) -> bytes:
    """The service has no extended negotiation: no answer (PS3.7 D.3.3.5)."""
    return b""


def extended_query(asked: bytes, policy: Policy) -> bytes:
    """What is done beyond plain matching, of what was asked for, a byte each (PS3.4 Table C.5-2).

    Relational queries, date and time as one, fuzzy matching of names, timezone adjustment (not done), enhanced
    multi-frame conversion (not done), empty value matching, multiple value matching.
    """
    able = bytes((policy.relational, 1, policy.fuzzy, 0, 0, 1, 1))
    return bytes(a & b for a, b in zip(asked, able, strict=False))


def extended_storage(asked: bytes, policy: Policy) -> bytes:
    """Level 2 (full) storage, no level of digital signature support stated, no element coerced (PS3.4 B.3.1)."""
    return bytes((2, 0, 0, 0, 0, 0))


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


def negotiate(request: AssociateRequest, policy: Policy, identity_response: bytes | None = None) -> Negotiated:
    """The answer to `request`: every context gets its result, every negotiation item that asks for one its answer.

    `identity_response` answers a user identity that was judged and is used (PS3.7 D.3.3.7.2); None = no answer.
    """
    related = {
        common.sop_class_uid: common.related_sop_class_uids
        for common in request.user.common_extended
        if common.service_class_uid == STORAGE_SERVICE_CLASS
    }
    roles = {role.sop_class_uid: role for role in request.user.roles}
    answers, contexts = list[ContextAnswer](), dict[int, Context]()
    for proposed in request.contexts:
        result = _context(proposed, policy, related, roles.get(proposed.abstract_syntax))
        if isinstance(result, Context):
            contexts[result.id] = result
            answers.append(ContextAnswer(result.id, ContextResult.ACCEPTANCE, result.transfer_syntax))
        else:
            # PS3.8 9.3.3.2: a transfer syntax has to be there even where it means nothing; the default may be
            answers.append(ContextAnswer(proposed.id, result, IMPLICIT_LE))
    served = {context.abstract_syntax: context for context in contexts.values()}
    extended = {
        uid: answer
        for uid, asked in request.user.extended
        if uid in served and (service := served[uid].service) and (answer := service.extended(asked, policy))
    }
    user = UserInformation(
        max_length=policy.max_length,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        asynchronous_operations=(1, 1) if request.user.asynchronous_operations else None,
        # PS3.7 D.3.3.4: each role that was offered is taken or not; none that was not offered
        roles=tuple(Role(uid, served[uid].scu, served[uid].scp) for uid in roles if uid in served),
        extended=tuple(extended.items()),
        identity_response=identity_response,
        # PS3.7 D.3.3.6: common extended negotiation is never answered
    )
    accept = AssociateAccept(request.called_ae_title, request.calling_ae_title, tuple(answers), user)
    options = {uid: flags for uid, flags in extended.items() if uid in FIND_CLASSES}
    return Negotiated(
        accept,
        contexts,
        frozenset(uid for uid, flags in options.items() if flags[:1] == b"\1"),
        frozenset(uid for uid, flags in options.items() if flags[2:3] == b"\1"),
        extended,
    )


def _context(
    proposed: ProposedContext, policy: Policy, related: dict[str, tuple[str, ...]], role: Role | None
) -> Context | ContextResult:
    """The context as accepted, or why it is not."""
    uid = proposed.abstract_syntax
    service = next((each for each in policy.services if each.claims(uid, policy)), None) or next(
        # PS3.4 B.3.1.4: a SOP class that specialises one we store is stored as well
        (each for each in policy.services for name in related.get(uid, ()) if each.also(name, policy)),
        None,
    )
    if service is None:
        return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    scu, scp = (role.scu and service.scu, role.scp and service.scp) if role else (service.scu, False)
    if not scu and not scp:
        return ContextResult.USER_REJECTION
    readable = service.syntaxes(policy)
    for syntax in proposed.transfer_syntaxes:
        if syntax in readable:
            return Context(proposed.id, uid, syntax, service, scu, scp)
    return ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


def _is_ae_title(text: str) -> bool:
    return bool(text) and all(" " <= char <= "~" and char != "\\" for char in text)
