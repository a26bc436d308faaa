"""A small blocking DICOM upper layer client for load generation.

It only knows what a load driver needs: association request, C-ECHO, C-STORE,
C-FIND, C-GET and C-MOVE.  Whole C-STORE messages can be encoded before the
clock starts, so that the client costs next to nothing while it runs.
"""

import socket
import struct

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CT = "1.2.840.10008.5.1.4.1.1.2"
ECT = "1.2.840.10008.5.1.4.1.1.2.1"
MG = "1.2.840.10008.5.1.4.1.1.1.2"
SOP_CLASSES = {"ct": CT, "small": CT, "mg": MG, "mf": ECT}

_UID = {0x00000002, 0x00000003, 0x00001000, 0x00001001}
_AE = {0x00000600}
_LONG = {0x00000000}


def _item(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body


def encode_command(fields):
    """Encode a {tag: value} command set, Implicit VR Little Endian."""
    out = b""
    for tag in sorted(fields):
        v = fields[tag]
        if tag in _UID:
            raw = v.encode()
            raw += b"\0" * (len(raw) & 1)
        elif tag in _AE:
            raw = v.encode()
            raw += b" " * (len(raw) & 1)
        else:
            raw = struct.pack("<H", v)
        out += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(out)) + out


def decode_command(raw):
    out, at = {}, 0
    while at + 8 <= len(raw):
        group, elem, size = struct.unpack_from("<HHI", raw, at)
        at += 8
        tag, v = group << 16 | elem, bytes(raw[at : at + size])
        at += size
        if tag in _LONG:
            out[tag] = struct.unpack("<I", v)[0]
        elif size == 2 and tag not in _UID and tag not in _AE:
            out[tag] = struct.unpack("<H", v)[0]
        else:
            out[tag] = v.rstrip(b"\0 ").decode("ascii", "replace")
    return out


def implicit(elements):
    """Encode [(tag, bytes)] as an Implicit VR Little Endian dataset."""
    out = b""
    for tag, raw in sorted(elements):
        pad = b"\0" if tag in (0x0020000D, 0x0020000E, 0x00080018) else b" "
        raw += pad * (len(raw) & 1)
        out += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw
    return out


def read_part10(path):
    """(SOP class, SOP instance, transfer syntax, dataset bytes) of a Part 10 file."""
    with open(path, "rb") as f:
        raw = f.read()
    size = struct.unpack_from("<I", raw, 140)[0]
    at, end, meta = 144, 144 + size, {}
    while at < end:
        _group, elem = struct.unpack_from("<HH", raw, at)
        vr = raw[at + 4 : at + 6]
        if vr in (b"OB", b"UN", b"SQ", b"OW", b"UT"):
            n = struct.unpack_from("<I", raw, at + 8)[0]
            at += 12
        else:
            n = struct.unpack_from("<H", raw, at + 6)[0]
            at += 8
        meta[elem] = raw[at : at + n]
        at += n

    def text(e):
        return meta[e].rstrip(b"\0 ").decode()

    return text(2), text(3), text(0x10), raw[end:]


class Association:
    def __init__(
        self,
        host,
        port,
        called,
        calling="BENCH",
        contexts=((VERIFICATION, (IMPLICIT,)),),
        scp_roles=(),
        max_pdu=131072,
        timeout=120,
    ):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = bytearray()
        self.message_id = 0
        body = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32)
        body += _item(0x10, b"1.2.840.10008.3.1.1.1")
        asked = {}
        for i, (abstract, syntaxes) in enumerate(contexts):
            pcid = 2 * i + 1
            asked[pcid] = abstract
            sub = _item(0x30, abstract.encode()) + b"".join(_item(0x40, t.encode()) for t in syntaxes)
            body += _item(0x20, bytes((pcid, 0, 0, 0)) + sub)
        user = _item(0x51, struct.pack(">I", max_pdu)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.77.2")
        for uid in scp_roles:
            user += _item(0x54, struct.pack(">H", len(uid)) + uid.encode() + b"\x00\x01")
        user += _item(0x55, b"BENCH_SCU")
        body += _item(0x50, user)
        self.sock.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
        kind, body = self.read_pdu()
        if kind != 2:
            raise ConnectionError(f"association refused (PDU type {kind})")
        self.peer_max, self.accepted, at = 0, {}, 68
        while at + 4 <= len(body):
            it, _, n = struct.unpack_from(">BBH", body, at)
            sub = body[at + 4 : at + 4 + n]
            at += 4 + n
            if it == 0x21 and sub[2] == 0:
                ts = bytes(sub[8 : 8 + struct.unpack_from(">H", sub, 6)[0]]).rstrip(b"\0").decode()
                self.accepted[asked[sub[0]]] = (sub[0], ts)
            elif it == 0x50:
                p = 0
                while p + 4 <= len(sub):
                    ut, _, un = struct.unpack_from(">BBH", sub, p)
                    if ut == 0x51:
                        self.peer_max = struct.unpack_from(">I", sub, p + 4)[0]
                    p += 4 + un

    # transport -----------------------------------------------------------
    def _fill(self, n):
        while len(self.buf) < n:
            got = self.sock.recv(max(262144, n - len(self.buf)))
            if not got:
                raise ConnectionError("peer closed the connection")
            self.buf += got

    def read_pdu(self):
        self._fill(6)
        kind, _, n = struct.unpack_from(">BBI", self.buf)
        self._fill(6 + n)
        body = bytes(memoryview(self.buf)[6 : 6 + n])
        del self.buf[: 6 + n]
        if kind == 7:
            raise ConnectionError(f"peer aborted the association: {body.hex()}")
        return kind, body

    def frame(self, pcid, raw, command):
        """P-DATA-TF bytes for a whole command set or dataset."""
        room = (self.peer_max or 1 << 20) - 6
        if len(raw) <= room:
            return struct.pack(">BBIIBB", 4, 0, len(raw) + 6, len(raw) + 2, pcid, 2 | command) + raw
        view, out = memoryview(raw), bytearray()
        for at in range(0, len(raw), room):
            part = view[at : at + room]
            last = at + room >= len(raw)
            out += struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, pcid, (2 if last else 0) | command)
            out += part
        return bytes(out)

    def read_message(self):
        """(command fields, dataset bytes, context id) of the next DIMSE message."""
        command, data, fields = bytearray(), bytearray(), None
        while True:
            kind, body = self.read_pdu()
            if kind != 4:
                raise ConnectionError(f"unexpected PDU type {kind}")
            at = 0
            while at < len(body):
                n, pcid, flags = struct.unpack_from(">IBB", body, at)
                part = memoryview(body)[at + 6 : at + 4 + n]
                at += 4 + n
                if flags & 1:
                    command += part
                    if flags & 2:
                        fields = decode_command(command)
                        if fields.get(0x00000800) == 0x0101:
                            return fields, b"", pcid
                else:
                    data += part
                    if flags & 2:
                        return fields, data, pcid

    def release(self):
        try:
            self.sock.sendall(struct.pack(">BBII", 5, 0, 4, 0))
            self.read_pdu()
        except OSError:
            pass
        self.sock.close()

    # services ------------------------------------------------------------
    def next_id(self):
        self.message_id = self.message_id % 65000 + 1
        return self.message_id

    def echo(self):
        pcid, _ = self.accepted[VERIFICATION]
        self.sock.sendall(
            self.frame(
                pcid,
                encode_command(
                    {0x00000002: VERIFICATION, 0x00000100: 0x30, 0x00000110: self.next_id(), 0x00000800: 0x0101}
                ),
                1,
            )
        )
        return self.read_message()[0][0x00000900]

    def encode_store(self, sop_class, sop_uid, dataset):
        pcid, _ = self.accepted[sop_class]
        command = encode_command(
            {
                0x00000002: sop_class,
                0x00000100: 1,
                0x00000110: self.next_id(),
                0x00000700: 0,
                0x00000800: 1,
                0x00001000: sop_uid,
            }
        )
        return self.frame(pcid, command, 1) + self.frame(pcid, dataset, 0)

    def store_encoded(self, message):
        self.sock.sendall(message)
        return self.read_message()[0][0x00000900]

    def find(self, identifier, model=STUDY_FIND):
        """List of pending identifiers."""
        pcid, _ = self.accepted[model]
        command = encode_command(
            {0x00000002: model, 0x00000100: 0x20, 0x00000110: self.next_id(), 0x00000700: 0, 0x00000800: 1}
        )
        self.sock.sendall(self.frame(pcid, command, 1) + self.frame(pcid, identifier, 0))
        rows = []
        while True:
            fields, data, _ = self.read_message()
            status = fields[0x00000900]
            if status in (0xFF00, 0xFF01):
                rows.append(data)
            elif status:
                raise RuntimeError(f"C-FIND status {status:04x}")
            else:
                return rows

    def get(self, identifier, model=STUDY_GET):
        """(instances, dataset bytes) received through C-GET."""
        pcid, _ = self.accepted[model]
        command = encode_command(
            {0x00000002: model, 0x00000100: 0x10, 0x00000110: self.next_id(), 0x00000700: 0, 0x00000800: 1}
        )
        self.sock.sendall(self.frame(pcid, command, 1) + self.frame(pcid, identifier, 0))
        count = size = 0
        while True:
            fields, data, cx = self.read_message()
            if fields[0x00000100] == 1:
                count, size = count + 1, size + len(data)
                self.sock.sendall(
                    self.frame(
                        cx,
                        encode_command(
                            {
                                0x00000002: fields[0x00000002],
                                0x00000100: 0x8001,
                                0x00000120: fields[0x00000110],
                                0x00000800: 0x0101,
                                0x00000900: 0,
                                0x00001000: fields[0x00001000],
                            }
                        ),
                        1,
                    )
                )
            elif fields[0x00000900] not in (0xFF00, 0xFF01):
                if fields[0x00000900]:
                    raise RuntimeError(f"C-GET status {fields[0x00000900]:04x}")
                return count, size

    def move(self, identifier, destination, model=STUDY_MOVE):
        """Completed sub-operations of a C-MOVE."""
        pcid, _ = self.accepted[model]
        command = encode_command(
            {
                0x00000002: model,
                0x00000100: 0x21,
                0x00000110: self.next_id(),
                0x00000600: destination,
                0x00000700: 0,
                0x00000800: 1,
            }
        )
        self.sock.sendall(self.frame(pcid, command, 1) + self.frame(pcid, identifier, 0))
        while True:
            fields, _, _ = self.read_message()
            if fields[0x00000900] not in (0xFF00, 0xFF01):
                if fields[0x00000900]:
                    raise RuntimeError(f"C-MOVE status {fields[0x00000900]:04x}")
                return fields.get(0x00001021, 0)
