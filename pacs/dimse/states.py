"""What an acceptor does on which PDU: the state table of PS3.8 section 9.2, as data."""

from __future__ import annotations

from enum import Enum

from pacs.dimse.upper_layer import PDUType


class State(Enum):
    """The states of PS3.8 Table 9-1 to 9-5 that an acceptor which never asks for a release can be in."""

    AWAIT_REQUEST = "Sta2"
    AWAIT_DECISION = "Sta3"
    ESTABLISHED = "Sta6"
    AWAIT_RELEASE = "Sta8"
    AWAIT_CLOSE = "Sta13"
    IDLE = "Sta1"


class Action(Enum):
    """What to do on an event (PS3.8 Tables 9-6 to 9-9)."""

    DECIDE = "AE-6"
    DATA = "DT-2"
    RELEASE = "AR-2"
    ABORT_AS_USER = "AA-1"
    CLOSE = "AA-2"
    ABORTED = "AA-3"
    DISCARD = "AA-6"
    ABORT_AGAIN = "AA-7"
    ABORT_AS_PROVIDER = "AA-8"


_DECIDED = (State.AWAIT_DECISION, State.ESTABLISHED, State.AWAIT_RELEASE)
_TABLE: dict[tuple[State, int], tuple[Action, State]] = {
    (State.AWAIT_REQUEST, PDUType.ASSOCIATE_RQ): (Action.DECIDE, State.AWAIT_DECISION),
    (State.AWAIT_REQUEST, PDUType.ABORT): (Action.CLOSE, State.IDLE),
    (State.ESTABLISHED, PDUType.DATA): (Action.DATA, State.ESTABLISHED),
    (State.ESTABLISHED, PDUType.RELEASE_RQ): (Action.RELEASE, State.AWAIT_RELEASE),
    **{(state, PDUType.ABORT): (Action.ABORTED, State.IDLE) for state in _DECIDED},
    (State.AWAIT_CLOSE, PDUType.ASSOCIATE_RQ): (Action.ABORT_AGAIN, State.AWAIT_CLOSE),
    (State.AWAIT_CLOSE, PDUType.ABORT): (Action.CLOSE, State.IDLE),
}
_OTHERWISE: dict[State, tuple[Action, State]] = {
    State.AWAIT_REQUEST: (Action.ABORT_AS_USER, State.AWAIT_CLOSE),
    **dict.fromkeys(_DECIDED, (Action.ABORT_AS_PROVIDER, State.AWAIT_CLOSE)),
    State.AWAIT_CLOSE: (Action.DISCARD, State.AWAIT_CLOSE),
}


def on_pdu(state: State, kind: int) -> tuple[Action, State]:
    """What an acceptor in `state` does on a PDU of this type, and the state it is in then (PS3.8 Table 9-10)."""
    if state is State.AWAIT_CLOSE and not PDUType.ASSOCIATE_RQ <= kind <= PDUType.ABORT:
        return Action.ABORT_AGAIN, state
    return _TABLE.get((state, kind), _OTHERWISE[state])
