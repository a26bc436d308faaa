"""Frames encoded in every still-image transfer syntax, for tests of decoders."""

from __future__ import annotations

import io
import zlib
from typing import Any

import dicom_data
import imagecodecs
import numpy as np
import numpy.typing as npt
import raw_dicom as raw
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.native import _encode_frame as _rle_of_pydicom

Array = npt.NDArray[Any]

PREFIX = "1.2.840.10008.1.2."
RLE, JPEG_LS, NEAR, J2K, J2K_LOSSY = PREFIX + "5", PREFIX + "4.80", PREFIX + "4.81", PREFIX + "4.90", PREFIX + "4.91"
HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY = PREFIX + "4.201", PREFIX + "4.202", PREFIX + "4.203"
LOSSLESS14, LOSSLESS, BASELINE, EXTENDED = PREFIX + "4.57", PREFIX + "4.70", PREFIX + "4.50", PREFIX + "4.51"
JXL, JXL_LOSSY, DEFLATED_FRAME, UNCOMPRESSED = PREFIX + "4.110", PREFIX + "4.112", PREFIX + "8.1", PREFIX + "1.98"


def encoded(frame: Array, transfer_syntax_uid: str, bits_stored: int) -> bytes:
    """The codestream of one frame (rows, columns[, 3])."""
    unsigned = frame.view(f"u{frame.dtype.itemsize}")
    if frame.dtype.kind == "i" and bits_stored < frame.dtype.itemsize * 8:
        unsigned = unsigned & np.array((1 << bits_stored) - 1, unsigned.dtype)
    match transfer_syntax_uid:
        case "1.2.840.10008.1.2.5":
            samples = frame.shape[2] if frame.ndim == 3 else 1
            return bytes(
                _rle_of_pydicom(
                    frame.tobytes(),
                    _Runner(frame.shape[0], frame.shape[1], samples, frame.dtype.itemsize),  # type: ignore[arg-type]
                )
            )
        case "1.2.840.10008.1.2.4.80":
            return bytes(imagecodecs.jpegls_encode(unsigned))
        case "1.2.840.10008.1.2.4.81":
            return bytes(imagecodecs.jpegls_encode(unsigned, level=2))
        case "1.2.840.10008.1.2.4.90":
            return bytes(
                imagecodecs.jpeg2k_encode(frame, codecformat="J2K", reversible=True, bitspersample=bits_stored)
            )
        case "1.2.840.10008.1.2.4.91":
            return bytes(imagecodecs.jpeg2k_encode(frame, level=60, codecformat="J2K"))
        case "1.2.840.10008.1.2.4.201" | "1.2.840.10008.1.2.4.202":
            return bytes(imagecodecs.htj2k_encode(frame, reversible=True))
        case "1.2.840.10008.1.2.4.203":
            return bytes(imagecodecs.htj2k_encode(frame, reversible=False, level=0.0001))
        case "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70":
            if frame.ndim == 3:
                space = {"colorspace": "RGB", "outcolorspace": "RGB"}
                return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, **space))
            return bytes(imagecodecs.ljpeg_encode(unsigned, bitspersample=bits_stored))
        case "1.2.840.10008.1.2.4.50":
            return bytes(imagecodecs.jpeg8_encode(unsigned, 98, subsampling="444"))
        case "1.2.840.10008.1.2.4.51":
            return bytes(imagecodecs.jpeg8_encode(unsigned, 99, bitspersample=12))
        case "1.2.840.10008.1.2.4.110":
            return bytes(imagecodecs.jpegxl_encode(unsigned, lossless=True))
        case "1.2.840.10008.1.2.4.112":
            return bytes(imagecodecs.jpegxl_encode(unsigned, level=95))
        case "1.2.840.10008.1.2.8.1":
            packer = zlib.compressobj(wbits=-15)
            return packer.compress(frame.tobytes()) + packer.flush()
    return frame.tobytes()


class _Runner:
    """What pydicom's RLE encoder asks of its runner."""

    def __init__(self, rows: int, columns: int, samples: int, width: int) -> None:
        self.rows, self.columns, self.samples_per_pixel = rows, columns, samples
        self.bits_allocated, self.planar_configuration = width * 8, 0
        self.frame_length = rows * columns * samples * width

    def get_option(self, name: str, default: Any = None) -> Any:
        return {"byteorder": "<"}.get(name, default)

    def is_array(self) -> bool:
        return False


def pixels(kind: str, rows: int = 40, columns: int = 33) -> tuple[Array, dict[str, Any]]:
    """A frame that is neither flat nor noise, and the attributes that go with it."""
    y, x = np.mgrid[0:rows, 0:columns]
    wave = np.sin(x / 5) + np.cos(y / 7)
    if kind == "rgb":
        frame = np.stack([(wave + 2) * 60, 255 - (wave + 2) * 50, x * 7 % 256], axis=2).astype(np.uint8)
        return frame, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0,
                       "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}  # fmt: skip
    bits, allocated, signed = {
        "u8": (8, 8, 0), "u12": (12, 16, 0), "u16": (16, 16, 0), "s12": (12, 16, 1), "s16": (16, 16, 1)
    }[kind]  # fmt: skip
    unit = (wave + 2) / 4
    top = (1 << bits) - 1
    frame = np.rint(unit * top).astype(np.int64) - (signed << (bits - 1))
    attributes = {"BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed}
    return frame.astype(f"{'i' if signed else 'u'}{allocated // 8}"), attributes


def dataset(frames: list[Array], attributes: dict[str, Any], transfer_syntax_uid: str, **more: Any) -> bytes:
    """Data set bytes of these frames, encapsulated where the syntax is."""
    rows, columns = frames[0].shape[:2]
    ds = dicom_data.image(rows=rows, columns=columns, **attributes, **more)
    ds.NumberOfFrames = len(frames)
    native = transfer_syntax_uid in (raw.EXPLICIT, raw.IMPLICIT, raw.BIG, raw.DEFLATED)
    if native:
        order = ">" if transfer_syntax_uid == raw.BIG else "<"  # pydicom writes pixel data as it is given
        ds.PixelData = b"".join(frame.astype(frame.dtype.newbyteorder(order)).tobytes() for frame in frames)
        ds.PixelData += b"\0" * (len(ds.PixelData) % 2)
        ds["PixelData"].VR = "OB" if frames[0].itemsize == 1 else "OW"
        return written(ds, transfer_syntax_uid)
    ds.PixelData = encapsulate([encoded(frame, transfer_syntax_uid, attributes["BitsStored"]) for frame in frames])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return written(ds, RLE)


def written(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """Data set bytes as pydicom writes them; pixel data goes out as it is."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    out = io.BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    whole = out.getvalue()
    return whole[144 + int.from_bytes(whole[140:144], "little") :]
