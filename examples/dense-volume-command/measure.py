"""Files in, files out: `measure.py IN OUT`, with nothing but Python's standard library.

IN/parameters.json, IN/ct.npy (the volume), IN/ct.json (its geometry), IN/ct/*.dcm (as received, not needed here).
OUT/dense.npy (labels on the same grid), OUT/volumes.json (measurements). Exit status 65 refuses, stderr saying why.
"""

import array
import ast
import itertools
import json
import math
import struct
import sys
from pathlib import Path

REFUSED = 65
VOLUME = ["118565006", "SCT", "Volume"]
MILLILITRE = ["ml", "UCUM", "milliliter"]


def read_npy(path):
    """Shape and values of a .npy file of float32 or int16."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<H", raw, 8)
    header = ast.literal_eval(raw[10 : 10 + length].decode("latin-1"))
    values = array.array({"<f4": "f", "<i2": "h"}[header["descr"]])
    values.frombytes(raw[10 + length :])
    return header["shape"], values


def write_npy(path, shape, values):
    """A .npy file of uint8."""
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode("latin-1")
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(values))


def slice_gaps(positions):
    """How much of the stack each slice stands for, in mm: half the way to each neighbour."""
    steps = [math.dist(a, b) for a, b in itertools.pairwise(positions)]
    return [(before + after) / 2 for before, after in zip([steps[0], *steps], [*steps, steps[-1]], strict=True)]


def main(given, made):
    """Measure; the exit status."""
    threshold = json.loads((given / "parameters.json").read_text())["threshold"]
    geometry = json.loads((given / "ct.json").read_text())
    shape, values = read_npy(given / "ct.npy")
    print(json.dumps({"progress": 0.1, "message": "measuring"}), flush=True)
    dense = bytes(value > threshold for value in values)
    if not any(dense):
        print(f"nothing is denser than {threshold:g} HU", file=sys.stderr)
        return REFUSED
    area = geometry["spacing"][0] * geometry["spacing"][1]
    size = shape[1] * shape[2]
    gaps = slice_gaps(geometry["positions"])
    volume = sum(area * gap * sum(dense[z * size : (z + 1) * size]) for z, gap in enumerate(gaps)) / 1000
    write_npy(made / "dense.npy", shape, dense)
    measurement = {"segment": 1, "name": VOLUME, "value": round(volume, 4), "unit": MILLILITRE}
    (made / "volumes.json").write_text(json.dumps({"measurements": [measurement]}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
