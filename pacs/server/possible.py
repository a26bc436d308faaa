"""Settings that cannot work together, or would be unsafe: refused in words, before anything is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pacs import aside
from pacs.destinations import destinations
from pacs.dimse import identity, tls
from pacs.errors import InvalidInput
from pacs.known_aes import KnownAEs
from pacs.server import doors

if TYPE_CHECKING:
    from pacs.settings import Settings


def refuse_impossible(settings: Settings, *, doors_open: bool = True) -> None:
    """Nothing, or InvalidInput in words for settings that cannot work together or would be unsafe."""
    if settings.objects != "files" and not settings.objects.startswith("s3://"):
        raise InvalidInput(f'setting objects: {settings.objects!r} is neither "files" nor s3://BUCKET/PREFIX')
    if settings.index != "sqlite" and not settings.index.startswith("postgresql"):
        raise InvalidInput('setting index: it must be "sqlite" or a postgresql+psycopg:// URL')
    if settings.queue != "local" and not settings.queue.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidInput('setting queue: it must be "local" or a redis:// or unix:// URL')
    if settings.dimse_processes < 0:
        raise InvalidInput("setting dimse_processes: somebody has to serve; at least 1, or 0 for as many as help")
    if settings.index == "sqlite" and settings.queue != "local":
        raise InvalidInput("a Redis queue serves several processes, SQLite only one: use PostgreSQL as index")
    if settings.other_content not in aside.POLICIES:
        raise InvalidInput(f"setting other_content: it must be one of {', '.join(aside.POLICIES)}")
    if settings.device not in ("auto", "cpu", "gpu"):
        raise InvalidInput('setting device: it must be "auto", "cpu" or "gpu"')
    destinations(settings)
    _refuse_impossible_web(settings)
    if not doors_open:
        if settings.index == "sqlite" or settings.objects == "files":
            raise InvalidInput("workers of their own need what all can reach: PostgreSQL as index and S3 for objects")
        if settings.worker_metrics and not settings.behind_tls_proxy:
            door = doors.parse(settings.worker_metrics, "worker_metrics")
            if not door.is_loopback:
                raise InvalidInput(
                    f"setting worker_metrics: {door} is open to the network without TLS; keep to a loopback address, "
                    "or put a TLS proxy in front and set behind_tls_proxy"
                )
        return
    if not doors.parse(settings.http, "http").is_loopback and not settings.behind_tls_proxy:
        raise InvalidInput(
            f"setting http: {settings.http} is open to the network without TLS; put a TLS proxy in front and set "
            "behind_tls_proxy, or keep to a loopback address"
        )
    if settings.dimse_identity not in identity.MODES:
        raise InvalidInput(f"setting dimse_identity: it must be one of {', '.join(identity.MODES)}")
    KnownAEs(settings.aes)
    if settings.dimse_tls:
        door = doors.parse(settings.dimse_tls, "dimse_tls")
        tls.server_context(settings)
        if not door.is_loopback and settings.tls_clients != "required" and not settings.aes:
            raise InvalidInput(
                f"setting dimse_tls: {door} is open to the network and asks for no certificates; set tls_clients to "
                '"required", or configure the AEs that may call'
            )
    for ae in settings.aes:
        if ae.port and (ae.tls or ae.certificate):
            tls.client_context(settings, ae)
    if settings.dimse and not doors.parse(settings.dimse, "dimse").is_loopback and not settings.aes:
        raise InvalidInput(f"setting dimse: {settings.dimse} is open to the network; configure the AEs that may call")


def _refuse_impossible_web(settings: Settings) -> None:
    if not (settings.trusted_proxies or settings.cors_origins or settings.public_url):
        return  # the DIMSE doors open before anything of the web is loaded
    from dicomweb import cors, links

    links.networks(settings.trusted_proxies)
    cors.checked(settings.cors_origins)
    if not links.is_url(settings.public_url):
        raise InvalidInput(f"setting public_url: {settings.public_url!r} is no http or https URL of a host and a path")
