"""The `m3dicom` command: one subcommand a verb."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pacs import settings as settings_module
from pacs.errors import ArchiveError, InvalidInput
from pacs.server import commands
from pacs.server.commands import common

if TYPE_CHECKING:
    from pacs.server.processes import Running
    from pacs.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status.

    0, 1 for a failure that is told in words, 2 for wrong usage, 130 for Ctrl-C, 141 where nobody reads on (`| head`).
    """
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except ArchiveError as error:
        print(f"m3dicom: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("m3dicom: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed there at exit
        return 128 + signal.SIGPIPE
    return status


def _nobody_reads(out: TextIO) -> bool:
    """Whether `out` is a pipe whose reader has left; a broken pipe may also be one of the network."""
    try:
        ends = select.poll()
        ends.register(out.fileno(), 0)
        return any(event & select.POLLERR for _, event in ends.poll(0))
    except (OSError, ValueError):
        return False


def is_worth_saying(record: logging.LogRecord) -> bool:
    """Whether a line of the HTTP server belongs into the log: it takes refused WebSockets for errors."""
    return record.getMessage() != "ASGI callable returned without completing handshake."


def _run(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = _parser(next(iter(arguments), "")).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for quiet in ("uvicorn", "botocore", "boto3", "urllib3", "s3transfer", "pydicom", "pynetdicom"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    logging.getLogger("arq").setLevel(logging.ERROR)  # it warns of every message that expired
    logging.getLogger("uvicorn.error").addFilter(is_worth_saying)
    status: int = chosen.run(chosen)
    return status


def _parser(first: str) -> argparse.ArgumentParser:
    """What reads a command line that begins with the word `first`."""
    parser = argparse.ArgumentParser(prog="m3dicom", description="An analysis extension that stands beside a PACS.")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = verbs.add_parser("serve", help="start the server: HTTP, DIMSE, scheduler and worker")
    common(serve)
    serve.add_argument("--http", metavar="HOST:PORT", help="HTTP door; port 0 = any free one")
    serve.add_argument("--dimse", metavar="HOST:PORT", help="DIMSE door; port 0 = any free one")
    serve.add_argument("--aet", metavar="TITLE", help="our AE title")
    serve.add_argument("--ready-file", metavar="FILE", type=Path, help="JSON written once both doors answer")
    serve.set_defaults(run=_serve)

    worker = verbs.add_parser("worker", help="run analysis tasks only, beside servers on the same index and store")
    common(worker)
    worker.add_argument("--plugins", metavar="ID,ID", default="", help="only these plug-ins; default: all installed")
    worker.add_argument("--device", choices=("auto", "cpu", "gpu"), help="where arrays are computed")
    worker.set_defaults(run=_worker)

    token = verbs.add_parser("token", help="bearer tokens for programs").add_subparsers(required=True, metavar="VERB")
    create = token.add_parser("create", help="print a new token, as the last line")
    common(create)
    create.add_argument("--name", required=True, help="whose it is; recorded with all that is done with it")
    create.add_argument("--rights", default="", metavar="R,R", help="query,read,store,delete,process,admin,metrics")
    create.add_argument("--days", type=float, help="expires after so many days; default: never")
    create.set_defaults(run=_token_create)
    revoke = token.add_parser("revoke", help="end every token and session of a name")
    common(revoke)
    revoke.add_argument("--name", required=True)
    revoke.set_defaults(run=_token_revoke)
    listing = token.add_parser("list", help="the tokens that are good")
    common(listing)
    listing.set_defaults(run=_token_list)

    link = verbs.add_parser("login-link", help="print a new one-time login link for the viewer")
    common(link)
    link.set_defaults(run=_login_link)

    demo = verbs.add_parser("demo", help="make synthetic studies and send them to the running server")
    common(demo)
    demo.add_argument(
        "--dimse", metavar="HOST:PORT", help="the server's DIMSE door; default: the one running on --data"
    )
    demo.add_argument("--aet", metavar="TITLE", help="the server's AE title")
    demo.add_argument("--small", action="store_true", help="smaller studies, for tests and slow machines")
    demo.set_defaults(run=_demo)
    if first not in verbs.choices:  # a server need not wait for all the other commands to be loaded
        commands.add_all(verbs)
    return parser


def _settings(chosen: argparse.Namespace, *names: str) -> Settings:
    overrides = {name: getattr(chosen, name) for name in ("data", *names)}
    return settings_module.load(chosen.config, os.environ, overrides)


def _serve(chosen: argparse.Namespace) -> int:
    from pacs.server import collector, ground

    collector.wait()
    settings = _settings(chosen, "http", "dimse", "aet")
    if chosen.ready_file is not None and not chosen.ready_file.absolute().parent.is_dir():
        raise InvalidInput(f"no folder for the ready file {chosen.ready_file}")
    with ExitStack() as stack:
        start_attendant = ground.prepare(settings, stack)
        from pacs.server import opening

        opened = opening.open_doors(settings, start_attendant, stack)
        from pacs.server import processes  # attendants do without all of that, and associations do not wait for it

        return processes.serve(
            opened, stack, ready_file=chosen.ready_file, say=lambda running: _welcome(running, settings)
        )


def _welcome(running: Running, settings: Settings) -> None:
    from pacs import native

    host, _, port = running.dimse.rpartition(":")
    site = running.dicomweb.removesuffix("/dicom-web")
    command = f"{os.path.relpath(sys.argv[0])}" if os.path.isfile(sys.argv[0]) else "m3dicom"
    data = f"--data {settings.data}"
    secure = f"\n  with TLS   {running.aet} at {running.dimse_tls}" if running.dimse_tls else ""
    slower = "" if native.load() is not None else "\nThe part in C is not compiled: `m3dicom doctor` says what to do.\n"
    to = f"-aec {running.aet} {host.strip('[]')} {port}"
    send = f"dcmsend --no-halt {to} +sd +r FOLDER" if running.dimse else "(no DIMSE door)"  # a licence may lie there
    print(
        f"""
m3DICOM is running.

  Viewer     {site}/#login={running.login}
             (good for one login; `{command} login-link {data}` prints another)
  DICOMweb   {running.dicomweb}
  DIMSE      {running.aet} at {running.dimse or "(no DIMSE door)"}{secure}

Try:
  {send}
  curl -H "Authorization: Bearer $({command} token create {data} --name me | tail -n 1)" {running.dicomweb}/studies
  {command} demo {data}     # synthetic studies, if you have no data at hand

Ctrl-C stops it.
{slower}""",
        flush=True,
    )


def _worker(chosen: argparse.Namespace) -> int:
    from pacs.server import processes

    plugins = tuple(part.strip() for part in chosen.plugins.split(",") if part.strip())
    return processes.work(_settings(chosen, "device"), plugins)


def _token_create(chosen: argparse.Namespace) -> int:
    from pacs.auth import CLINICAL_RIGHTS, Right
    from pacs.server import beside

    try:
        rights = frozenset(Right(word) for word in chosen.rights.split(",")) if chosen.rights else CLINICAL_RIGHTS
    except ValueError as error:
        raise InvalidInput(f"unknown right: {error}") from error
    if not chosen.name.strip() or (chosen.days is not None and not chosen.days > 0):
        raise InvalidInput("a token needs a name, and more than 0 days where days are given")
    with beside.credentials(_settings(chosen)) as auth:
        secret = auth.create_token(chosen.name, rights, lifetime_s=chosen.days and chosen.days * 86400)
    print(f"Token for {chosen.name}; it is shown this once:", file=sys.stderr)
    print(secret)
    return 0


def _token_revoke(chosen: argparse.Namespace) -> int:
    from pacs.server import beside

    with beside.credentials(_settings(chosen)) as auth:
        ended = auth.revoke_named(chosen.name)
    print(f"{ended} ended")
    return 0 if ended else 1


def _token_list(chosen: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from pacs.server import beside

    with beside.credentials(_settings(chosen)) as auth:
        for name, created, expires in auth.tokens():
            until = f"until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC" if expires else "without end"
            print(f"{name}\tsince {datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M} UTC\t{until}")
    return 0


def _login_link(chosen: argparse.Namespace) -> int:
    from pacs.auth import ALL_RIGHTS
    from pacs.server import beside

    settings = _settings(chosen)
    with beside.credentials(settings) as auth:
        code = auth.create_login_link("operator", ALL_RIGHTS, settings.login_link_minutes * 60)
    site = settings.public_url or f"http://{beside.running(settings).get('http', settings.http)}"
    print(f"{site}/#login={code}")
    return 0


def _demo(chosen: argparse.Namespace) -> int:
    from pacs.server import beside, demo

    settings = _settings(chosen, "dimse", "aet")
    if chosen.dimse is None:
        running = beside.running(settings)
        if not running:
            print(f"m3dicom: no server runs on {settings.data}; start one with `m3dicom serve`", file=sys.stderr)
            return 1
        return demo.send(str(running["dimse"]), str(running["aet"]), small=chosen.small)
    return demo.send(settings.dimse, settings.aet, small=chosen.small)


if __name__ == "__main__":
    sys.exit(main())
