"""Who asks, and what they may do: principals and rights; bearer tokens, login links and sessions; AE titles.

Secrets are random 256-bit values of which only the SHA-256 is kept, so neither the database nor a backup of it can
be used to log in.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, delete, insert, or_, select, update

from pacs.errors import Forbidden, InvalidInput, Unauthenticated
from pacs.index.schema import credential
from pacs.known_aes import KnownAEs

if TYPE_CHECKING:
    from pacs.index.engine import Index
    from pacs.settings import AE


class Right(StrEnum):
    """What a principal may be allowed to do."""

    QUERY = "query"
    READ = "read"
    STORE = "store"
    DELETE = "delete"
    PROCESS = "process"
    ADMIN = "admin"
    METRICS = "metrics"


ALL_RIGHTS = frozenset(Right)
CLINICAL_RIGHTS = frozenset({Right.QUERY, Right.READ, Right.STORE, Right.PROCESS})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: recorded on what is stored, asked and done.

    `scope` is the access scope that new objects get and that queries are limited to; the empty scope sees everything.
    """

    name: str
    kind: str  # "ae", "token", "session", "system"
    rights: frozenset[Right] = CLINICAL_RIGHTS
    scope: str = ""

    def require(self, right: Right) -> None:
        """Nothing, or Forbidden where the principal lacks `right`."""
        if right not in self.rights:
            raise Forbidden(f"{self.kind} {self.name} may not {right.value}")


SYSTEM = Principal("m3dicom", "system", ALL_RIGHTS)


TOKEN_PREFIX = "m3d_"  # noqa: S105  (marks a secret as ours for scanners that look for leaked ones)
_CACHE_S = 2.0
_CACHE_SIZE = 4096


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Auth:
    """Credentials and AE titles, on the `credential` table. Safe from any thread.

    A credential that was looked up is remembered for two seconds, so a revocation takes at most that long. Raises
    InvalidInput for AEs that cannot be.
    """

    def __init__(self, index: Index, aes: Sequence[AE] = (), *, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self.aes = KnownAEs(aes)
        self._ae_rights = _ae_rights(aes)
        self._clock = clock
        self._cache: dict[str, tuple[float, Principal]] = {}

    def create_token(
        self, name: str, rights: frozenset[Right] = CLINICAL_RIGHTS, *, scope: str = "", lifetime_s: float | None = None
    ) -> str:
        """A new bearer token (RFC 6750), shown this once."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._insert("token", name, secret, rights, scope, lifetime_s)
        return secret

    def create_login_link(self, name: str, rights: frozenset[Right], lifetime_s: float, *, scope: str = "") -> str:
        """The code of a login link, good for one use."""
        code = secrets.token_urlsafe(32)
        self._insert("link", name, code, rights, scope, lifetime_s)
        return code

    def open_session(self, secret: str, lifetime_s: float) -> str:
        """The secret of a new browser session, for a login code (used up by this) or a bearer token.

        Raises Unauthenticated when the secret is neither, or a code that was used or has expired.
        """
        now = self._clock()

        def redeem(conn: Connection) -> tuple[str, frozenset[Right], str, float]:
            row = conn.execute(self._valid(secret, now).where(credential.c.kind.in_(("link", "token")))).first()
            if row is None:
                raise Unauthenticated("the login link or token is unknown, used or expired")
            if row.kind == "link":
                taken = conn.execute(
                    update(credential)
                    .where(credential.c.id == row.id, credential.c.used_at.is_(None))
                    .values(used_at=now)
                )
                if taken.rowcount != 1:
                    raise Unauthenticated("the login link is unknown, used or expired")
            ends = row.expires_at if row.kind == "token" else None  # a session never outlives its token
            lasts_s = lifetime_s if ends is None else min(lifetime_s, ends - now)
            return row.name, _rights(row.rights), row.scope, lasts_s

        name, rights, scope, lasts_s = self._index.transact(redeem)
        session = secrets.token_urlsafe(32)
        self._insert("session", name, session, rights, scope, lasts_s)
        return session

    def remembered(self, secret: str, kind: str = "token") -> Principal | None:
        """Who holds `secret`, where that was looked up just now; None says nothing. Never waits."""
        known = self._cache.get(f"{kind}:{_digest(secret)}")
        return known[1] if known is not None and known[0] > self._clock() else None

    def remembered_until(self, secret: str, kind: str = "token") -> float:
        """When `remembered` will have to look again, in Unix seconds; 0 where nothing is remembered."""
        known = self._cache.get(f"{kind}:{_digest(secret)}")
        return 0.0 if known is None else known[0]

    def authenticate(self, secret: str, kind: str = "token") -> Principal:
        """Who holds `secret` (a bearer token or a session). Raises Unauthenticated."""
        known = self.remembered(secret, kind)
        if known is not None:
            return known
        now = self._clock()
        key = f"{kind}:{_digest(secret)}"
        with self._index.read() as conn:
            row = conn.execute(self._valid(secret, now).where(credential.c.kind == kind)).first()
        if row is None:
            self._cache.pop(key, None)
            raise Unauthenticated(f"the {kind} is unknown, revoked or expired")
        principal = Principal(row.name, kind, _rights(row.rights), row.scope)
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        remembered_until = now + _CACHE_S if row.expires_at is None else min(now + _CACHE_S, row.expires_at)
        self._cache[key] = (remembered_until, principal)
        return principal

    def revoke(self, secret: str) -> None:
        """End a token or session by its secret; nothing happens when there is none."""
        self._cache.clear()
        self._end(credential.c.digest == _digest(secret))

    def revoke_named(self, name: str) -> int:
        """End every token and session of `name`; how many there were."""
        self._cache.clear()
        return self._end(credential.c.name == name)

    def tokens(self) -> list[tuple[str, float, float | None]]:
        """Name, creation and expiry (seconds since 1970) of every token that is still good."""
        unexpired = or_(credential.c.expires_at.is_(None), credential.c.expires_at > self._clock())
        with self._index.read() as conn:
            rows = conn.execute(
                select(credential)
                .where(credential.c.kind == "token", credential.c.revoked_at.is_(None), unexpired)
                .order_by(credential.c.created_at)
            ).all()
        return [(row.name, row.created_at, row.expires_at) for row in rows]

    def ae(self, calling: str, called: str, address: str, *, tls: bool = False, certificate: str = "") -> Principal:
        """The principal behind a calling AE title. Raises Forbidden for one that is not configured, once any is.

        `called` is checked by the acceptor (PS3.8 9.3.4); what an AE is bound to is checked by `KnownAEs.judge`.
        """
        ae = self.aes.judge(calling, address, tls=tls, certificate=certificate)
        return Principal(calling, "ae", CLINICAL_RIGHTS if ae is None else self._ae_rights[calling])

    def user(self, ae: Principal, name: str | None, secret: str) -> Principal:
        """Who holds `secret`, a bearer token of ours, at the AE: with the rights that both of them have.

        Raises Unauthenticated where the token is not good, or not that of `name` (None = whose it is does not matter).
        """
        holder = self.authenticate(secret)
        if name is not None and name != holder.name:
            raise Unauthenticated("the token belongs to somebody else")
        return Principal(holder.name, holder.kind, holder.rights & ae.rights, holder.scope)

    def _insert(
        self, kind: str, name: str, secret: str, rights: frozenset[Right], scope: str, lifetime_s: float | None
    ) -> None:
        now = self._clock()
        row = {
            "id": str(uuid.uuid4()),
            "kind": kind,
            "name": name,
            "digest": _digest(secret),
            "rights": " ".join(sorted(rights)),
            "scope": scope,
            "created_at": now,
            "expires_at": None if lifetime_s is None else now + lifetime_s,
        }
        self._index.transact(lambda conn: conn.execute(insert(credential).values(row)) and None)

    def _end(self, condition: ColumnElement[bool]) -> int:
        now = self._clock()
        ending = update(credential).where(condition, credential.c.revoked_at.is_(None)).values(revoked_at=now)
        return self._index.transact(lambda conn: conn.execute(ending).rowcount)

    @staticmethod
    def _valid(secret: str, now: float) -> Select[Any]:
        return select(credential).where(
            credential.c.digest == _digest(secret),
            credential.c.revoked_at.is_(None),
            or_(credential.c.used_at.is_(None), credential.c.kind != "link"),
            or_(credential.c.expires_at.is_(None), credential.c.expires_at > now),
        )


def drop_ended(conn: Connection, before: float) -> int:
    """How many credentials that expired or were revoked before this time were removed."""
    t = credential.c
    return conn.execute(delete(credential).where(or_(t.expires_at < before, t.revoked_at < before))).rowcount


def _ae_rights(aes: Sequence[AE]) -> dict[str, frozenset[Right]]:
    """The rights of each AE by its title. Raises InvalidInput naming the one that cannot be."""
    known: dict[str, frozenset[Right]] = {}
    for ae in aes:
        try:
            known[ae.title.strip()] = frozenset(Right(right) for right in ae.rights)
        except ValueError as error:
            raise InvalidInput(f"setting aes: {ae.title}: {error}; rights are {', '.join(Right)}") from error
    return known


def _rights(text: str) -> frozenset[Right]:
    return frozenset(Right(word) for word in text.split())
