"""User identity negotiation (PS3.7 D.3.3.7): who is at the AE, told by a token of ours, as passcode or as JWT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pacs.auth import Principal
from pacs.dimse.upper_layer import UserIdentity
from pacs.errors import Unauthenticated

if TYPE_CHECKING:
    from pacs.auth import Auth

USERNAME = 1
USERNAME_AND_PASSCODE = 2
KERBEROS = 3
SAML = 4
JWT = 5
MODES = ("ignore", "check", "require")
MAX_SECRET_LENGTH = 4096


def judge(identity: UserIdentity | None, mode: str, ae: Principal, auth: Auth) -> tuple[Principal, bytes | None]:
    """Who acts on the association, and the server response to answer with (None = no answer).

    Of types 2 and 5 the token is checked, and the association has the rights that both AE and token have. The other
    types prove nothing that could be checked here: they are no identity, and get no response, which tells the requestor
    that they were not used. Raises Unauthenticated for a token that is not good and, by mode "require", for none.
    """
    if mode == "ignore":
        return ae, None
    if identity is None or identity.type not in (USERNAME_AND_PASSCODE, JWT):
        if mode == "require":
            raise Unauthenticated("a user identity with a token is required")
        return ae, None
    by_name = identity.type == USERNAME_AND_PASSCODE
    name = _text(identity.primary, "user name") if by_name else None
    secret = _text(identity.secondary if by_name else identity.primary, "token")
    # PS3.7 Table D.3-15: the response to a passcode is empty, and so is ours to a token
    return auth.user(ae, name, secret), b"" if identity.response_requested else None


def _text(raw: bytes, what: str) -> str:
    try:
        text = raw.decode("utf-8").strip(" \0")
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > MAX_SECRET_LENGTH:
        raise Unauthenticated(f"the {what} of the user identity is empty or no text")
    return text
