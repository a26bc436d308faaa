"""TLS for DIMSE, both sides: the BCP 195 RFC 8996, 9325 profile of PS3.15 annex B.

TLS 1.3, and TLS 1.2 with ephemeral ECDH and authenticated encryption only; nothing older is spoken, and nothing is
said in plain on a connection that began with TLS (non-downgrading).
"""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING

from pacs.errors import InvalidInput

if TYPE_CHECKING:
    from pacs.settings import AE, Settings

# RFC 9325 4.2 and its alternatives with the same properties; TLS 1.3 has suites of its own
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"


def server_context(settings: Settings) -> ssl.SSLContext:
    """What the TLS door answers with. Raises InvalidInput naming the setting that cannot be."""
    if settings.tls_clients not in ("required", "optional"):
        raise InvalidInput('setting tls_clients: it must be "required" or "optional"')
    for name in ("tls_certificate", "tls_key"):
        if not getattr(settings, name):
            raise InvalidInput(f"setting {name}: the TLS door {settings.dimse_tls} needs it")
    if not settings.tls_ca:
        if settings.tls_clients == "required":
            raise InvalidInput("setting tls_ca: without it no caller's certificate can be judged")
        if any(ae.certificate for ae in settings.aes):
            raise InvalidInput("setting tls_ca: AEs with a certificate need the authority that vouches for it")
    context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # nobody resumes: an association is long, and a ticket is one more thing to steal
    _load_own(context, settings)
    if settings.tls_ca:
        _load_authorities(context, settings)
        context.verify_mode = ssl.CERT_REQUIRED if settings.tls_clients == "required" else ssl.CERT_OPTIONAL
    return context


def client_context(settings: Settings, ae: AE) -> ssl.SSLContext:
    """How `ae` is called. Raises InvalidInput naming the setting that cannot be.

    Its certificate has to be the configured one, which `fingerprint_of` tells; where none is configured it has to be
    vouched for by an authority and bear the name of the host.
    """
    context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if ae.certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # a fingerprint says more than any authority
    elif settings.tls_ca:
        _load_authorities(context, settings)
    else:
        context.load_default_certs()
    if settings.tls_certificate:
        _load_own(context, settings)
    return context


def fingerprint_of(sock: ssl.SSLSocket) -> str:
    """The SHA-256 of the certificate that the other side has shown, in hex; empty where it has shown none."""
    certificate = sock.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


def _profile(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION
    return context


def _load_own(context: ssl.SSLContext, settings: Settings) -> None:
    def no_passphrase() -> str:
        raise InvalidInput(f"setting tls_key: {settings.tls_key} is protected by a passphrase")

    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None, no_passphrase)
    except ssl.SSLError as error:
        why = error.reason or "not readable as PEM"
        raise InvalidInput(f"setting tls_certificate, tls_key: {why} ({settings.tls_certificate})") from None
    except OSError as error:
        raise InvalidInput(f"setting tls_certificate, tls_key: {error.strerror}") from None


def _load_authorities(context: ssl.SSLContext, settings: Settings) -> None:
    try:
        context.load_verify_locations(settings.tls_ca)
    except ssl.SSLError as error:
        raise InvalidInput(f"setting tls_ca: {error.reason or 'not readable as PEM'} ({settings.tls_ca})") from None
    except OSError as error:
        raise InvalidInput(f"setting tls_ca: {settings.tls_ca}: {error.strerror}") from None
