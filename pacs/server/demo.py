"""Synthetic studies for a newcomer without data: a mammogram with calcifications, a CT with bone and teeth."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pynetdicom import AE

from pacs import uids
from pacs.errors import InvalidInput, Unavailable
from pacs.server import doors


def studies(*, small: bool = False) -> list[tuple[str, list[Dataset]]]:
    """Title and instances of each demo study; equal on every machine."""
    from analysis.evaluation import ct_phantom, mammogram_phantom

    return [
        ("a mammogram with implanted calcifications", mammogram_phantom.demo_study(small=small)),
        ("a CT phantom with bone and teeth", ct_phantom.demo_study(small=small)),
    ]


def send(dimse: str, aet: str, *, small: bool = False) -> int:
    """Make the studies and send them by C-STORE to the server at `dimse`; the exit status.

    Raises Unavailable when the server refuses the association or an instance.
    """
    door = doors.parse(dimse, "dimse")
    if not door.port:
        raise InvalidInput("the server has no DIMSE door to send to")
    print("Making synthetic studies (patients that never lived) …", flush=True)
    for title, instances in studies(small=small):
        _send(door, aet, instances, title)
    print("Sent. The analyses start when the studies are stable; watch them in the viewer.")
    return 0


def _send(door: doors.Door, aet: str, instances: Iterable[Dataset], title: str) -> None:
    instances = list(instances)
    client = AE(ae_title="M3DEMO")
    for sop_class in {str(ds.SOPClassUID) for ds in instances}:
        client.add_requested_context(sop_class)
    client.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    assoc: Any = client.associate(door.host, door.port, ae_title=aet)
    if not assoc.is_established:
        raise Unavailable(f"{aet} at {door} does not accept the association")
    try:
        for number, ds in enumerate(instances, 1):
            answer = assoc.send_c_store(ds)
            if answer.get("Status", 0xFFFF) != 0x0000:
                raise Unavailable(f"the server answered {answer.get('Status', 0xFFFF):04X}H", about=ds.SOPInstanceUID)
            if sys.stdout.isatty():
                print(f"\r  {title}: {number} of {len(instances)}", end="", flush=True)
    finally:
        assoc.release()
    print(f"{chr(13) if sys.stdout.isatty() else ''}  {title}: {len(instances)} instances")
