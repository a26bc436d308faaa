"""The AEs of the settings as peers that can be called."""

from __future__ import annotations

from pacs.dimse.requestor import Remote
from pacs.errors import NotFound
from pacs.settings import AE, Settings


def known(settings: Settings, title: str) -> Remote:
    """The configured AE of this title. Raises NotFound where there is none that has an address."""
    for ae in settings.aes:
        if ae.title.strip() == title.strip() and ae.host and ae.port:
            return remote(settings, ae)
    raise NotFound("no AE of this title with host and port is configured")


def remote(settings: Settings, ae: AE) -> Remote:
    """A configured AE as a peer, with TLS where it is set so."""
    return Remote(ae.title.strip(), ae.host, ae.port)
