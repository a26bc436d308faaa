#!/usr/bin/env python3
"""Write the deterministic benchmark corpus.

    python gen_corpus.py OUT [--scale 1.0]

Four folders are made under OUT:

    ct/      1000 CT slices     512 x 512   16 bit   5 studies x 2 series x 100
    small/   2000 CT tiles       64 x  64   16 bit   10 studies x 2 series x 100
    mg/         8 mammograms   4096 x 3328  16 bit   2 studies x 1 series x 4
    mf/         1 enhanced CT  200 frames of 512 x 512, 16 bit

Every file is Explicit VR Little Endian with around 60 header attributes.  The
pixels are a smooth phantom plus noise, so that they neither compress to
nothing nor look random.  The same SEED gives the same bytes.
"""

import argparse
import json
import os

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498.77"
CT = "1.2.840.10008.5.1.4.1.1.2"
ECT = "1.2.840.10008.5.1.4.1.1.2.1"
MG = "1.2.840.10008.5.1.4.1.1.1.2"
SEED = 20240117
NAMES = [
    "Fischer^Anna",
    "Okafor^Chidi",
    "Lindqvist^Maja",
    "Moreau^Jean",
    "Tanaka^Yuki",
    "Alvarez^Rosa",
    "Novak^Petr",
    "Haddad^Lina",
    "Byrne^Sean",
    "Costa^Marta",
]


def phantom(rows, cols, rng, level=1000, noise=25, lesions=6):
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j].astype(np.float32)
    img = np.full((rows, cols), 24, np.float32)
    img[(x / 0.82) ** 2 + (y / 0.66) ** 2 < 1] = level
    img[(x / 0.78) ** 2 + (y / 0.62) ** 2 < 1] = level + 60
    for _ in range(lesions):
        cx, cy = rng.uniform(-0.5, 0.5, 2)
        r = rng.uniform(0.03, 0.2)
        img += rng.uniform(-350, 500) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (r * r))
    return img, noise


def noisy(base, noise, rng, top=4095):
    out = base + rng.standard_normal(base.shape, dtype=np.float32) * noise
    return np.clip(out, 0, top).astype("<u2")


def common(sop_class, modality, st, se, inst, study_uid, series_uid, sop_uid, kind):
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = sop_uid
    ds.StudyDate = f"2024{1 + st % 12:02d}{1 + st % 28:02d}"
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.StudyDate
    ds.StudyTime = f"{8 + st % 10:02d}1500"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{8 + st % 10:02d}{16 + se:02d}00"
    ds.AccessionNumber = f"ACC{kind[:2].upper()}{st:06d}"
    ds.Modality = modality
    ds.Manufacturer = "Bench Imaging"
    ds.InstitutionName = "General Hospital"
    ds.ReferringPhysicianName = "Referrer^Rita"
    ds.StationName = "ROOM1"
    ds.StudyDescription = f"{modality} study {st}"
    ds.SeriesDescription = f"{modality} series {se}"
    ds.InstitutionalDepartmentName = "Radiology"
    ds.OperatorsName = "Operator^Olaf"
    ds.ManufacturerModelName = "Bench 3000"
    ref = Dataset()
    ref.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    ref.ReferencedSOPInstanceUID = study_uid + ".9"
    ds.ReferencedPerformedProcedureStepSequence = Sequence([ref])
    ds.PatientName = NAMES[st % len(NAMES)]
    ds.PatientID = f"P{kind[:2].upper()}{st:06d}"
    ds.PatientBirthDate = f"19{40 + st % 60:02d}0312"
    ds.PatientSex = "MF"[st % 2]
    ds.PatientAge = f"{20 + st % 70:03d}Y"
    ds.PatientWeight = "72.5"
    ds.BodyPartExamined = "BREAST" if modality == "MG" else "CHEST"
    ds.DeviceSerialNumber = "SN0042"
    ds.SoftwareVersions = "4.2"
    ds.ProtocolName = "Routine"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = study_uid
    ds.SeriesInstanceUID = series_uid
    ds.StudyID = str(st)
    ds.SeriesNumber = se + 1
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = inst + 1
    ds.FrameOfReferenceUID = series_uid + ".7"
    return ds


def pixels(ds, rows, cols, bits=12):
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, cols
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = 0


def ct_tags(ds, inst, rows):
    ds.SliceThickness = "1.25"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = "360"
    ds.GantryDetectorTilt = "0"
    ds.TableHeight = "151"
    ds.RotationDirection = "CW"
    ds.ExposureTime = "500"
    ds.XRayTubeCurrent = str(200 + inst % 80)
    ds.Exposure = "110"
    ds.FilterType = "BODY"
    ds.ConvolutionKernel = "STANDARD"
    ds.ImagePositionPatient = ["-180", "-180", f"{-inst * 1.25:.2f}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = f"{-inst * 1.25:.2f}"
    ds.PixelSpacing = [f"{360 / rows:.6f}"] * 2
    ds.WindowCenter, ds.WindowWidth = "1040", "400"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"


def save(ds, path):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = ROOT + ".1"
    meta.ImplementationVersionName = "BENCH_1"
    ds.file_meta = meta
    ds.save_as(path, enforce_file_format=True)


def series_of_slices(out, kind, code, studies, series, count, rows, cols, rng):
    folder = os.path.join(out, kind)
    os.makedirs(folder, exist_ok=True)
    n = 0
    for st in range(studies):
        for se in range(series):
            base, noise = phantom(rows, cols, rng)
            drift, _ = phantom(rows, cols, rng)
            for i in range(count):
                study = f"{ROOT}.{code}.{1000 + st}"
                ser = f"{study}.{10 + se}"
                ds = common(CT, "CT", st, se, i, study, ser, f"{ser}.{10000 + i}", kind)
                ct_tags(ds, i, rows)
                pixels(ds, rows, cols)
                w = i / max(1, count)
                ds.PixelData = noisy(base * (1 - w) + drift * w, noise, rng).tobytes()
                save(ds, os.path.join(folder, f"{n:05d}.dcm"))
                n += 1
    return n


def mammograms(out, count, rng, rows=4096, cols=3328):
    folder = os.path.join(out, "mg")
    os.makedirs(folder, exist_ok=True)
    base, noise = phantom(rows, cols, rng, level=2200, lesions=12)
    for i in range(count):
        st, inst = divmod(i, 4)
        study = f"{ROOT}.3.{1000 + st}"
        ser = f"{study}.10"
        ds = common(MG, "MG", st, 0, inst, study, ser, f"{ser}.{10000 + inst}", "mg")
        ds.ImageLaterality = "LR"[i % 2]
        ds.ViewPosition = ["CC", "MLO"][i // 2 % 2]
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.KVP, ds.BodyPartThickness, ds.CompressionForce = "28", "52", "110"
        ds.ImagerPixelSpacing = ["0.07", "0.07"]
        ds.WindowCenter, ds.WindowWidth = "2048", "4096"
        pixels(ds, rows, cols)
        view = base[:, ::-1] if i % 2 else base
        ds.PixelData = noisy(view, noise, rng).tobytes()
        save(ds, os.path.join(folder, f"{i:05d}.dcm"))
    return count


def multiframe(out, frames, rng, rows=512, cols=512):
    folder = os.path.join(out, "mf")
    os.makedirs(folder, exist_ok=True)
    study = f"{ROOT}.4.1000"
    ser = f"{study}.10"
    ds = common(ECT, "CT", 0, 0, 0, study, ser, f"{ser}.10000", "mf")
    ds.NumberOfFrames = frames
    shared, meas = Dataset(), Dataset()
    meas.PixelSpacing, meas.SliceThickness = ["0.703125", "0.703125"], "1.25"
    shared.PixelMeasuresSequence = Sequence([meas])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    per = []
    for f in range(frames):
        item, pos, cont = Dataset(), Dataset(), Dataset()
        pos.ImagePositionPatient = ["-180", "-180", f"{-f * 1.25:.2f}"]
        cont.InStackPositionNumber = f + 1
        cont.DimensionIndexValues = [1, f + 1]
        item.PlanePositionSequence = Sequence([pos])
        item.FrameContentSequence = Sequence([cont])
        per.append(item)
    ds.PerFrameFunctionalGroupsSequence = Sequence(per)
    pixels(ds, rows, cols)
    base, noise = phantom(rows, cols, rng)
    drift, _ = phantom(rows, cols, rng)
    ds.PixelData = b"".join(
        noisy(base * (1 - f / frames) + drift * f / frames, noise, rng).tobytes() for f in range(frames)
    )
    save(ds, os.path.join(folder, "00000.dcm"))
    return 1


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--scale", type=float, default=1.0, help="share of the full counts to write")
    a = ap.parse_args()
    rng = np.random.default_rng(SEED)

    def n(v):
        return max(1, round(v * a.scale))

    counts = {
        "ct": series_of_slices(a.out, "ct", 1, 5, 2, n(100), 512, 512, rng),
        "small": series_of_slices(a.out, "small", 2, 10, 2, n(100), 64, 64, rng),
        "mg": mammograms(a.out, n(8), rng),
        "mf": multiframe(a.out, n(200), rng),
    }
    for kind in counts:
        size = sum(e.stat().st_size for e in os.scandir(os.path.join(a.out, kind)))
        counts[kind] = {"files": counts[kind], "bytes": size}
    with open(os.path.join(a.out, "corpus.json"), "w") as f:
        json.dump(counts, f, indent=1)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
