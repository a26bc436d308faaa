"""Deliveries to a configured AE: C-STORE over associations of ours, then storage commitment where it is asked."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from pacs.destinations import Outcome
from pacs.dimse import commit_scu, remotes
from pacs.dimse.sending import Sender
from pacs.errors import NotFound

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation
    from pacs.settings import AE

REPORT_S = 5.0
"""How long the report is waited for on the association of its request; later ones come to our acceptor."""


class StoreCourier:
    """Sends to one AE of the settings."""

    def __init__(self, archive: Archive, title: str) -> None:
        """Raises NotFound for a title that no AE with host and port has."""
        self._archive = archive
        self._remote = remotes.known(archive.settings, title)
        self._ae = _configured(archive, title)

    def send(self, locations: Sequence[InstanceLocation]) -> Generator[Outcome, None, None]:
        """The outcome of each instance, as the AE answers (PS3.4 B.2.3)."""
        sender = Sender(self._archive, self._remote, self._archive.settings.aet.strip())
        with closing(sender.outcomes(locations)) as outcomes:
            for each in outcomes:
                uid = each.location.sop_instance_uid
                if each.taken:
                    yield Outcome(uid, "taken")
                else:
                    # A7xx is a lack of resources, which passes, and no status at all is no answer
                    passing = each.status is None or each.status >> 8 == 0xA7
                    yield Outcome(uid, "later" if passing else "refused", each.reason)

    def ask_commitment(self, instances: Sequence[tuple[str, str]]) -> str:
        """The Transaction UID of an N-ACTION that the AE has taken (PS3.4 J.3.2)."""
        return commit_scu.request(self._archive, self._ae, instances, wait_s=REPORT_S)


def _configured(archive: Archive, title: str) -> AE:
    for ae in archive.settings.aes:
        if ae.title.strip() == title:
            return ae
    raise NotFound("no AE of this title is configured")
