"""Pictures in consumer formats (PNG, GIF, progressive JPEG) turned into native pixel data (PS3.18 Table 10.5.2-1).

Runs on what strangers send: in a server only inside `pacs.decoding`'s child processes.
"""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING, Any, Final

from pacs.dicom.codestreams import described
from pacs.dicom.late import imagecodecs
from pacs.dicom.late import numpy as np
from pacs.errors import Undecodable

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_BYTES: Final = 1 << 30
MEDIA_TYPES: Final = ("image/png", "image/gif", "image/jpeg")


def native(data: bytes, media_type: str) -> bytes:
    """A line of JSON with the attributes of the pixels, then the pixels, little endian; `split` takes them apart.

    Raises Undecodable for what is no such picture, is larger than 1 GiB or has transparency, which DICOM has not.
    """
    array = _gif(data) if media_type == "image/gif" else _still(data, media_type)[np.newaxis]
    frames, rows, columns, samples = array.shape
    if rows > 65535 or columns > 65535:
        raise Undecodable("a picture with more than 65535 rows or columns")
    photometric = "RGB" if samples == 3 else "MONOCHROME2"
    attributes = described(
        rows, columns, samples, array.dtype.itemsize * 8, photometric, lossy=media_type == "image/jpeg"
    )
    if frames > 1:
        attributes["00280008"] = {"vr": "IS", "Value": [frames]}
    return json.dumps(attributes).encode() + b"\n" + array.astype(array.dtype.newbyteorder("<")).tobytes()


def split(made: bytes) -> tuple[dict[str, Any], memoryview]:
    """Attributes in the DICOM JSON model, and native pixel data, of what `native` made."""
    head, _, _ = made.partition(b"\n")
    attributes: dict[str, Any] = json.loads(head)
    return attributes, memoryview(made)[len(head) + 1 :]


def _still(data: bytes, media_type: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(
            imagecodecs.png_decode(data) if media_type == "image/png" else imagecodecs.jpeg8_decode(data)
        )
    except (ValueError, RuntimeError) as error:
        raise Undecodable(f"no {media_type}: {type(error).__name__}") from None
    if array.nbytes > MAX_BYTES:
        raise Undecodable("a picture of more than 1 GiB")
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.shape[-1] in (2, 4):
        if media_type == "image/jpeg" or (array[..., -1] != np.iinfo(array.dtype).max).any():
            raise Undecodable("a picture with transparency or four colours")
        array = array[..., :-1]
    return array


def _gif(data: bytes) -> npt.NDArray[Any]:
    from PIL import Image, ImageSequence

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are fine: the limit is ours
            with Image.open(io.BytesIO(data), formats=("GIF",)) as picture:
                count = getattr(picture, "n_frames", 1)
                if count * picture.width * picture.height * 3 > MAX_BYTES:
                    raise Undecodable("a picture of more than 1 GiB")
                frames = [np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(picture)]
    except (OSError, SyntaxError, ValueError) as error:
        raise Undecodable(f"no image/gif: {type(error).__name__}") from None
    array = np.stack(frames)
    grey = bool((array[..., 0] == array[..., 1]).all() and (array[..., 1] == array[..., 2]).all())
    return array[..., :1] if grey else array
