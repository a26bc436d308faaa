"""The AEs of the settings as peers that can be called."""

from __future__ import annotations

from pacs.dimse import tls
from pacs.dimse.requestor import Remote
from pacs.errors import NotFound
from pacs.known_aes import fingerprint
from pacs.settings import AE, Settings


def known(settings: Settings, title: str) -> Remote:
    """The configured AE of this title. Raises NotFound where there is none that has an address."""
    for ae in settings.aes:
        if ae.title.strip() == title.strip() and ae.host and ae.port:
            return remote(settings, ae)
    raise NotFound("no AE of this title with host and port is configured")


def remote(settings: Settings, ae: AE) -> Remote:
    """A configured AE as a peer, with TLS where it is set so."""
    if not (ae.tls or ae.certificate):
        return Remote(ae.title.strip(), ae.host, ae.port)
    certificate = fingerprint(ae.certificate) if ae.certificate else ""
    return Remote(ae.title.strip(), ae.host, ae.port, tls.client_context(settings, ae), certificate)


def named(settings: Settings, title: str, host: str, port: int, *, tls: bool) -> Remote:
    """An AE that is in no settings: its address is given by hand."""
    return remote(settings, AE(title, host=host, port=port, tls=tls))
