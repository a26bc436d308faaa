"""Decoding in child processes: right answers, and nothing a codec does harms the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import codestreams
import imagecodecs
import numpy as np
import pytest
import raw_dicom as raw

from pacs.decoding import DecodingPool
from pacs.dicom.decode import PixelInfo
from pacs.dicom.render import PLAIN, Extras, render
from pacs.dicom.transcode import transcode_dataset, transcoded_frame
from pacs.errors import InvalidInput, Unavailable, Undecodable, UnsupportedTransferSyntax

FRAME, ATTRIBUTES = codestreams.pixels("u12", 48, 32)
INFO = PixelInfo(codestreams.JPEG_LS, 48, 32, bits_stored=12, high_bit=11)
CODESTREAM = codestreams.encoded(FRAME, codestreams.JPEG_LS, 12)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(2, deadline_s=20)
    yield pool
    pool.close()


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie counts: its parent, the fork server, reaps it)."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_nothing_starts_before_it_is_needed() -> None:
    pool = DecodingPool(3)
    assert pool.processes == []
    native = PixelInfo(raw.EXPLICIT, 48, 32, bits_stored=12, high_bit=11)
    assert pool.explicit_le_frame(FRAME.tobytes(), native) == FRAME.tobytes()
    assert pool.processes == []
    pool.close()
    pool.close()
    with pytest.raises(Unavailable):
        pool.run(os.getcwdb)


def test_answers_are_those_of_the_functions_themselves(pool: DecodingPool) -> None:
    assert pool.explicit_le_frame(CODESTREAM, INFO) == FRAME.tobytes()
    picture = pool.render(
        CODESTREAM, INFO, {}, window=(2000, 1000, "linear"), viewport=(16, 16), media_type="image/png"
    )
    expected = render(FRAME, INFO, {}, window=(2000, 1000, "linear"), viewport=(16, 16), media_type="image/png")
    np.testing.assert_array_equal(imagecodecs.png_decode(picture), imagecodecs.png_decode(expected))
    data = codestreams.dataset([FRAME], ATTRIBUTES, codestreams.J2K)
    done = pool.transcode(data, codestreams.J2K, raw.EXPLICIT)
    assert done == transcode_dataset(data, codestreams.J2K, raw.EXPLICIT)


def test_frames_are_encoded_and_states_presented_in_a_child(pool: DecodingPool) -> None:
    for target in (codestreams.HTJ2K, codestreams.J2K, codestreams.LOSSLESS, codestreams.RLE):
        made = pool.frame(CODESTREAM, INFO, target)
        assert made == transcoded_frame(CODESTREAM, INFO, target)
        again = PixelInfo(target, 48, 32, bits_stored=12, high_bit=11)
        assert pool.explicit_le_frame(made, again) == FRAME.tobytes()
    with pytest.raises(UnsupportedTransferSyntax) as caught:
        pool.frame(CODESTREAM, INFO, codestreams.BASELINE)
    assert caught.value.about == codestreams.BASELINE
    state = {"20500020": {"vr": "CS", "Value": ["INVERSE"]}}
    how = {"sop_instance_uid": "1.2.3", "extras": PLAIN, "media_type": "image/png"}
    picture = imagecodecs.png_decode(pool.present(CODESTREAM, INFO, {}, state, **how))
    expected = np.clip(1 - FRAME / 4095, 0, 1) * 255
    assert np.abs(picture - expected).max() <= 1


def test_native_pictures_need_no_child_but_foreign_profiles_and_large_ones_do() -> None:
    pool = DecodingPool(1, deadline_s=60)
    try:
        native = PixelInfo(raw.EXPLICIT, 48, 32, bits_stored=12, high_bit=11)
        pool.render(FRAME.tobytes(), native, {}, media_type="image/png")
        assert pool.processes == []
        profile = Extras(iccprofile="srgb", profile=bytes(200))
        pool.render(FRAME.tobytes(), native, {}, media_type="image/png", extras=profile)
        [child] = pool.processes
        with pytest.raises(InvalidInput):
            pool.render(FRAME.tobytes(), native, {}, viewport=(1 << 15, 1 << 15))
        assert pool.processes == [child]
    finally:
        pool.close()


def test_only_the_frames_own_group_travels(pool: DecodingPool) -> None:
    def group(center: float) -> dict[str, object]:
        window = {"00281050": {"vr": "DS", "Value": [center]}, "00281051": {"vr": "DS", "Value": [2]}}
        return {"00289132": {"vr": "SQ", "Value": [window]}}

    metadata = {"52009230": {"vr": "SQ", "Value": [group(5000), group(-5000)]}}
    dark, light = (pool.render(CODESTREAM, INFO, metadata, frame_number=n, media_type="image/png") for n in (1, 2))
    assert imagecodecs.png_decode(dark).max() == 0
    assert imagecodecs.png_decode(light).min() == 255


def test_errors_about_the_input_come_back_as_they_are(pool: DecodingPool) -> None:
    with pytest.raises(Undecodable):
        pool.explicit_le_frame(CODESTREAM[:50], INFO)
    with pytest.raises(InvalidInput, match="quality"):
        pool.render(CODESTREAM, INFO, {}, quality=0)
    with pytest.raises(UnsupportedTransferSyntax) as caught:
        pool.transcode(b"", raw.EXPLICIT, "1.2.3")
    assert caught.value.about == "1.2.3"
    with pytest.raises(Undecodable, match="ZeroDivisionError"):
        pool.run(divmod, 1, 0)


def test_a_crash_costs_one_answer(pool: DecodingPool) -> None:
    for crash in ((os.abort,), (ctypes.string_at, 1), (os._exit, 3)):
        started = time.monotonic()
        with pytest.raises(Undecodable):
            pool.run(*crash)
        assert time.monotonic() - started < 5
        assert pool.explicit_le_frame(CODESTREAM, INFO) == FRAME.tobytes()


def test_a_child_killed_between_tasks_is_replaced(pool: DecodingPool) -> None:
    pool.explicit_le_frame(CODESTREAM, INFO)
    for pid in pool.processes:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    assert pool.explicit_le_frame(CODESTREAM, INFO) == FRAME.tobytes()


def test_hanging_and_swelling_end() -> None:
    pool = DecodingPool(1, deadline_s=1.5, memory_bytes=1 << 30)
    try:
        assert pool.explicit_le_frame(CODESTREAM, INFO) == FRAME.tobytes()
        [first] = pool.processes
        with pytest.raises(Undecodable, match="memory"):
            pool.run(bytes, 2 << 30)
        assert pool.processes == [first]
        started = time.monotonic()
        with pytest.raises(Undecodable, match=r"within 1\.5 s"):
            pool.run(time.sleep, 60)
        assert time.monotonic() - started < 4
        assert gone(first)
        assert pool.explicit_le_frame(CODESTREAM, INFO) == FRAME.tobytes()
    finally:
        pool.close()


def test_a_child_is_confined(pool: DecodingPool) -> None:
    status = pool.run(Path.read_bytes, Path("/proc/self/status")).decode()
    assert "NoNewPrivs:\t1" in status
    limits = pool.run(Path.read_bytes, Path("/proc/self/limits")).decode()
    for name in ("Max core file size", "Max file size"):
        [line] = [line for line in limits.splitlines() if line.startswith(name)]
        assert line.split()[-3:-1] == ["0", "0"]


def test_many_threads_share_few_children(pool: DecodingPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: pool.explicit_le_frame(CODESTREAM, INFO), range(60)))
    assert set(answers) == {FRAME.tobytes()}
    assert 1 <= len(pool.processes) <= 2


def test_large_frames_pass_whole(pool: DecodingPool) -> None:
    frame = np.random.default_rng(0).integers(0, 4096, (3000, 2000), dtype=np.uint16)
    info = PixelInfo(codestreams.UNCOMPRESSED, 3000, 2000, bits_stored=12, high_bit=11)
    assert pool.explicit_le_frame(frame.tobytes(), info) == frame.tobytes()


def test_close_leaves_no_child_even_at_work() -> None:
    pool = DecodingPool(2, deadline_s=30)
    pool.explicit_le_frame(CODESTREAM, INFO)
    errors: list[BaseException] = []

    def busy() -> None:
        try:
            pool.run(time.sleep, 30)
        except (Undecodable, Unavailable) as error:
            errors.append(error)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(pool.processes) < 2:
        time.sleep(0.05)
    time.sleep(0.3)
    pids = pool.processes
    started = time.monotonic()
    pool.close()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 5
    assert len(errors) == 3
    assert pool.processes == []
    assert all(gone(pid) for pid in pids)
