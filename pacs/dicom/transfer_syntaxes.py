"""The transfer syntaxes we accept, and what each one means for reading and for media types: TABLE.

`codec` names the decoder in `pacs.dicom.decode`; None is stored and passed through as it came (video, JPIP references,
retired JPEG processes). `media_type` is that of one frame in PS3.18 section 8.7.3; None where frames cannot be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One row of PS3.6 Table A-1, with how its bytes are laid out (PS3.5 section 10 and annex A)."""

    uid: str
    name: str
    keyword: str
    codec: str | None
    media_type: str | None
    explicit: bool = True
    little_endian: bool = True
    encapsulated: bool = False
    deflated: bool = False
    lossy: bool = False

    @property
    def video(self) -> bool:
        """Whether the pixel data is one video stream rather than separate frames (PS3.5 section 8.2.5 on)."""
        return self.media_type is not None and self.media_type.startswith("video/")


IMPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"


def _row(uid: str, name: str, keyword: str, codec: str | None, media_type: str | None, traits: str) -> TransferSyntax:
    known = traits.split()
    return TransferSyntax(
        uid,
        name,
        keyword,
        codec,
        media_type,
        explicit="implicit" not in known,
        little_endian="big-endian" not in known,
        encapsulated="encapsulated" in known,
        deflated="deflated" in known,
        lossy="lossy" in known,
    )


# fmt: off
TABLE: tuple[TransferSyntax, ...] = (
    _row("1.2.840.10008.1.2", "Implicit VR Little Endian",
         "ImplicitVRLittleEndian", "native", "application/octet-stream", "implicit"),
    _row("1.2.840.10008.1.2.1", "Explicit VR Little Endian",
         "ExplicitVRLittleEndian", "native", "application/octet-stream", ""),
    _row("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian",
         "EncapsulatedUncompressedExplicitVRLittleEndian", "uncompressed", "application/octet-stream", "encapsulated"),
    _row("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian",
         "DeflatedExplicitVRLittleEndian", "native", "application/octet-stream", "deflated"),
    _row("1.2.840.10008.1.2.2", "Explicit VR Big Endian",
         "ExplicitVRBigEndian", "native", "application/octet-stream", "big-endian"),
    _row("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)",
         "JPEGBaseline8Bit", "jpeg", "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 and 4)",
         "JPEGExtended12Bit", "jpeg", "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.52", "JPEG Extended (Process 3 and 5)",
         "JPEGExtended35", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)",
         "JPEGSpectralSelectionNonHierarchical68", "jpeg", "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.54", "JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)",
         "JPEGSpectralSelectionNonHierarchical79", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.55", "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)",
         "JPEGFullProgressionNonHierarchical1012", "jpeg", "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.56", "JPEG Full Progression, Non-Hierarchical (Process 11 and 13)",
         "JPEGFullProgressionNonHierarchical1113", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.57", "JPEG Lossless, Non-Hierarchical (Process 14)",
         "JPEGLossless", "jpeg", "image/jpeg", "encapsulated"),
    _row("1.2.840.10008.1.2.4.58", "JPEG Lossless, Non-Hierarchical (Process 15)",
         "JPEGLosslessNonHierarchical15", None, "image/jpeg", "encapsulated"),
    _row("1.2.840.10008.1.2.4.59", "JPEG Extended, Hierarchical (Process 16 and 18)",
         "JPEGExtendedHierarchical1618", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.60", "JPEG Extended, Hierarchical (Process 17 and 19)",
         "JPEGExtendedHierarchical1719", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.61", "JPEG Spectral Selection, Hierarchical (Process 20 and 22)",
         "JPEGSpectralSelectionHierarchical2022", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.62", "JPEG Spectral Selection, Hierarchical (Process 21 and 23)",
         "JPEGSpectralSelectionHierarchical2123", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.63", "JPEG Full Progression, Hierarchical (Process 24 and 26)",
         "JPEGFullProgressionHierarchical2426", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.64", "JPEG Full Progression, Hierarchical (Process 25 and 27)",
         "JPEGFullProgressionHierarchical2527", None, "image/jpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.65", "JPEG Lossless, Hierarchical (Process 28)",
         "JPEGLosslessHierarchical28", None, "image/jpeg", "encapsulated"),
    _row("1.2.840.10008.1.2.4.66", "JPEG Lossless, Hierarchical (Process 29)",
         "JPEGLosslessHierarchical29", None, "image/jpeg", "encapsulated"),
    _row("1.2.840.10008.1.2.4.70",
         "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])",
         "JPEGLosslessSV1", "jpeg", "image/jpeg", "encapsulated"),
    _row("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression",
         "JPEGLSLossless", "jpegls", "image/jls", "encapsulated"),
    _row("1.2.840.10008.1.2.4.81", "JPEG-LS Lossy (Near-Lossless) Image Compression",
         "JPEGLSNearLossless", "jpegls", "image/jls", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.90", "JPEG 2000 Image Compression (Lossless Only)",
         "JPEG2000Lossless", "jpeg2000", "image/jp2", "encapsulated"),
    _row("1.2.840.10008.1.2.4.91", "JPEG 2000 Image Compression",
         "JPEG2000", "jpeg2000", "image/jp2", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)",
         "JPEG2000MCLossless", "jpeg2000", "image/jpx", "encapsulated"),
    _row("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2 Multi-component Image Compression",
         "JPEG2000MC", "jpeg2000", "image/jpx", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.94", "JPIP Referenced", "JPIPReferenced", None, None, ""),
    _row("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", "JPIPReferencedDeflate", None, None, "deflated"),
    _row("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level",
         "MPEG2MPML", None, "video/mpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.100.1", "Fragmentable MPEG2 Main Profile / Main Level",
         "MPEG2MPMLF", None, "video/mpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.101", "MPEG2 Main Profile / High Level",
         "MPEG2MPHL", None, "video/mpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.101.1", "Fragmentable MPEG2 Main Profile / High Level",
         "MPEG2MPHLF", None, "video/mpeg", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1",
         "MPEG4HP41", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.102.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1",
         "MPEG4HP41F", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.103", "MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
         "MPEG4HP41BD", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.103.1", "Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1",
         "MPEG4HP41BDF", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.104", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
         "MPEG4HP422D", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.104.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video",
         "MPEG4HP422DF", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.105", "MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
         "MPEG4HP423D", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.105.1", "Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video",
         "MPEG4HP423DF", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.106", "MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
         "MPEG4HP42STEREO", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.106.1", "Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2",
         "MPEG4HP42STEREOF", None, "video/mp4", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile / Level 5.1",
         "HEVCMP51", None, "video/H265", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.108", "HEVC/H.265 Main 10 Profile / Level 5.1",
         "HEVCM10P51", None, "video/H265", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", "JPEGXLLossless", "jpegxl", "image/jxl", "encapsulated"),
    _row("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression",
         "JPEGXLJPEGRecompression", "jpegxl", "image/jxl", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.112", "JPEG XL", "JPEGXL", "jpegxl", "image/jxl", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression (Lossless Only)",
         "HTJ2KLossless", "htj2k", "image/jphc", "encapsulated"),
    _row("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)",
         "HTJ2KLosslessRPCL", "htj2k", "image/jphc", "encapsulated"),
    _row("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000 Image Compression",
         "HTJ2K", "htj2k", "image/jphc", "encapsulated lossy"),
    _row("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", "JPIPHTJ2KReferenced", None, None, ""),
    _row("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate",
         "JPIPHTJ2KReferencedDeflate", None, None, "deflated"),
    _row("1.2.840.10008.1.2.5", "RLE Lossless", "RLELossless", "rle", "image/dicom-rle", "encapsulated"),
    _row("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression",
         "DeflatedImageFrameCompression", "deflate", "application/octet-stream", "encapsulated"),
)
# fmt: on

TRANSFER_SYNTAXES: dict[str, TransferSyntax] = {row.uid: row for row in TABLE}
