"""DELETE on studies, series and instances: an extension beside PS3.18, for those with the right to delete."""

from __future__ import annotations

from dicomweb.answers import Answer
from dicomweb.calls import Call
from pacs.auth import Right


async def delete(call: Call) -> Answer:
    """204 once nobody can find it any more; 404 where it is not there."""
    principal = call.principal(Right.DELETE)
    names = [call.uid(name) for name in ("study", "series", "instance") if name in call.params]
    await call.io(call.archive.removal.delete, principal, *names)
    return Answer(204)
