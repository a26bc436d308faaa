"""Synthetic studies for a newcomer without data: a mammogram with calcifications, a CT with bone and teeth."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from analysis.evaluation import ct_phantom, mammogram_phantom
from pacs import uids
from pacs.errors import InvalidInput, Unavailable
from pacs.server import doors


@dataclass(frozen=True)
class Sizes:
    """How large the demo studies are: mm for the mammogram, columns and mm a voxel for the CT, scale of its phantom."""

    mammogram_mm: tuple[float, float]
    ct_columns: int
    ct_spacing_mm: float
    ct_scale: float


FULL = Sizes((200.0, 110.0), 224, 0.45, 1.0)
SMALL = Sizes((90.0, 60.0), 160, 0.5, 0.8)


def ct_truth(sizes: Sizes) -> ct_phantom.Phantom:
    """The phantom behind the demo CT: its exact surfaces."""
    return ct_phantom.Phantom(scale=sizes.ct_scale)


def mammograms(sizes: Sizes) -> list[mammogram_phantom.Phantom]:
    """The demo mammograms with what was implanted in them."""
    shown: list[tuple[mammogram_phantom.Laterality, int, int]] = [("L", 11, 2), ("R", 12, 1)]
    return [
        mammogram_phantom.phantom(
            seed, size_mm=sizes.mammogram_mm, laterality=side, clusters=clusters, contrast=(9.0, 15.0), singles=0
        )
        for side, seed, clusters in shown
    ]


def studies(sizes: Sizes) -> list[tuple[str, list[Dataset]]]:
    """Title and instances of each demo study; equal on every machine."""
    name = f"demo {sizes.ct_columns}"
    breasts = [
        mammogram_phantom.to_dataset(made, study=name, series=number)
        for number, made in enumerate(mammograms(sizes), 1)
    ]
    head = ct_phantom.volume(ct_truth(sizes), sizes.ct_columns, sizes.ct_spacing_mm)
    return [
        ("mammograms with implanted calcifications", breasts),
        ("a CT phantom with bone and teeth", ct_phantom.ct_series(head, study=name)),
    ]


def send(dimse: str, aet: str, *, small: bool = False) -> int:
    """Make the studies and send them by C-STORE to the server at `dimse`; the exit status.

    Raises Unavailable when the server refuses the association or an instance.
    """
    door = doors.parse(dimse, "dimse")
    if not door.port:
        raise InvalidInput("the server has no DIMSE door to send to")
    print("Making synthetic studies (patients that never lived) …", flush=True)
    for title, instances in studies(SMALL if small else FULL):
        _send(door, aet, instances, title)
    print("Sent. The analyses start when the studies are stable; watch them in the viewer.")
    return 0


def _send(door: doors.Door, aet: str, instances: Iterable[Dataset], title: str) -> None:
    instances = list(instances)
    client = AE(ae_title="M3DEMO")
    for sop_class in {str(ds.SOPClassUID) for ds in instances}:
        client.add_requested_context(sop_class, ExplicitVRLittleEndian)
    client.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    assoc: Any = client.associate(door.host, door.port, ae_title=aet)
    if not assoc.is_established:
        raise Unavailable(f"{aet} at {door} does not accept the association")
    try:
        for number, ds in enumerate(instances, 1):
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            answer = assoc.send_c_store(ds)
            if answer.get("Status", 0xFFFF) != 0x0000:
                raise Unavailable(f"the server answered {answer.get('Status', 0xFFFF):04X}H", about=ds.SOPInstanceUID)
            if sys.stdout.isatty():
                print(f"\r  {title}: {number} of {len(instances)}", end="", flush=True)
    finally:
        assoc.release()
    print(f"{chr(13) if sys.stdout.isatty() else ''}  {title}: {len(instances)} instances")
