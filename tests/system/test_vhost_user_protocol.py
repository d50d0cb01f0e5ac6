"""If these failed, a front-end that breaks the protocol could harm more than its own connection."""
import os
import random
import signal
import socket
import struct
import subprocess
import time

import pytest

from bed import Outboard, wait_until
from vhost_user_client import (
    ADD_MEM_REG, GET_CONFIG, GET_FEATURES, GET_INFLIGHT_FD, GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM, GET_VRING_BASE, GUEST, LOG_ALL, MEMORY, PROTOCOL, REM_MEM_REG, REPLY,
    SET_BACKEND_REQ_FD, SET_CONFIG, SET_FEATURES, SET_INFLIGHT_FD, SET_LOG_BASE, SET_MEM_TABLE,
    SET_OWNER, SET_PROTOCOL_FEATURES, SET_STATUS, SET_VRING_ADDR, SET_VRING_BASE,
    SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, SIZE, USER,
    VERSION, VERSION_1, Ended, FrontEnd, inflight, memory_file, message, region, ring_address,
    state, table, u64)

DISK = "null:?size=1G"


@pytest.fixture(name="outboard", scope="module")
def outboard_fixture(tmp_path_factory):
    """One process for the whole module: what one test does to it the next would notice."""
    directory = tmp_path_factory.mktemp("vhost", numbered=True)
    with Outboard(directory, DISK, "--queues", "2", "--queue-size", "64") as process:
        wait_until(lambda: answers(process), 10, "outboard")
        yield process
        process.check_running()
        assert process.stop() == 0


def answers(process):
    try:
        with FrontEnd(process.socket) as front_end:
            return front_end.ask(GET_FEATURES, flags=VERSION)
    except (ConnectionError, FileNotFoundError, Ended):
        return 0


def assert_serves(process):
    process.check_running()
    with FrontEnd(process.socket) as front_end:
        assert front_end.start().read() == 0


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def guest_mappings(process):
    with open(f"/proc/{process.pid}/maps", encoding="ascii") as maps:
        return sum("memfd:" in line for line in maps)


def assert_nothing_is_left(process, before):
    wait_until(lambda: descriptors(process) <= before and not guest_mappings(process), 10,
               "descriptors and mappings to go")


# What costs the connection, sent by a front-end that has negotiated everything and whose ring runs.
# Payload, and how many descriptors go with it.
MALFORMED = {
    "version 0": (message(GET_FEATURES, flags=0), 0),
    "version 2": (message(GET_FEATURES, flags=2), 0),
    "a reply": (message(GET_FEATURES, flags=VERSION | REPLY), 0),
    "a huge payload": (message(SET_FEATURES, u64(0), size=0xFFFFFFFF), 0),
    "a payload of 321 bytes": (message(SET_CONFIG, bytes(321)), 0),
    "request 0": (message(0), 0),
    "request 2^32 - 1": (message(0xFFFFFFFF), 0),
    "request 22, not offered": (message(22, bytes(32)), 0),
    "no payload": (message(SET_FEATURES), 0),
    "half a payload": (message(SET_FEATURES, bytes(4)), 0),
    "a payload too long": (message(SET_VRING_NUM, bytes(12)), 0),
    "an unexpected descriptor": (message(GET_FEATURES), 1),
    "nine descriptors": (message(SET_MEM_TABLE, table(*[region()] * 8)), 9),
    "253 descriptors": (message(SET_OWNER), 253),
    "more regions than descriptors": (message(SET_MEM_TABLE, table(region(), region(1 << 30))), 1),
    "fewer regions than descriptors": (message(SET_MEM_TABLE, table(region())), 2),
    "nine regions": (message(SET_MEM_TABLE, table(*[region()] * 9)), 8),
    "a table of 2^32 - 1 regions": (message(SET_MEM_TABLE, table(region(), count=0xFFFFFFFF)), 1),
    "a table that counts too few": (message(SET_MEM_TABLE, table(region(), count=0)), 1),
    "an empty region": (message(SET_MEM_TABLE, table(region(size=0))), 1),
    "a guest address that wraps": (message(SET_MEM_TABLE, table(region(guest=2**64 - 4096))), 1),
    "a user address that wraps": (message(SET_MEM_TABLE, table(region(user=2**64 - 4096))), 1),
    "an offset that wraps": (message(SET_MEM_TABLE, table(region(offset=2**63))), 1),
    "a region beyond its file": (message(SET_MEM_TABLE, table(region(offset=4096))), 1),
    "a region of 2^62 bytes": (message(SET_MEM_TABLE, table(region(size=2**62))), 1),
    "regions that overlap": (message(SET_MEM_TABLE, table(region(), region(GUEST + 4096))), 2),
    "a region twice": (message(ADD_MEM_REG, bytes(8) + region()), 1),
    "a region without descriptor": (message(ADD_MEM_REG, bytes(8) + region(1 << 30)), 0),
    "a region that is not there": (message(REM_MEM_REG, bytes(8) + region(1 << 30)), 0),
    "a queue too many": (message(SET_VRING_NUM, state(2, SIZE)), 0),
    "queue 2^32 - 1": (message(GET_VRING_BASE, state(0xFFFFFFFF, 0)), 0),
    "queue 255": (message(SET_VRING_CALL, u64(255)), 1),
    "a queue of no descriptor": (message(SET_VRING_NUM, state(1, 0)), 0),
    "a queue too large": (message(SET_VRING_NUM, state(1, 128)), 0),
    "a queue of 2^16 + 16": (message(SET_VRING_NUM, state(1, 65552)), 0),
    "the size of a running queue": (message(SET_VRING_NUM, state(0, SIZE)), 0),
    "the base of a running queue": (message(SET_VRING_BASE, state(0, 0)), 0),
    "an index of 17 bits": (message(SET_VRING_BASE, state(1, 65536)), 0),
    "a ring nowhere": (message(SET_VRING_ADDR, ring_address(1, descriptor=4096)), 0),
    "a ring that wraps": (message(SET_VRING_ADDR, ring_address(1, used=2**64 - 2)), 0),
    "a ring beyond the end": (message(SET_VRING_ADDR, ring_address(1, used=USER + MEMORY + 1)), 0),
    "another ring while it runs": (message(SET_VRING_ADDR, ring_address(used=USER + 0x6000)), 0),
    "unknown ring flags": (message(SET_VRING_ADDR, ring_address(flags=2)), 0),
    "a kick without descriptor": (message(SET_VRING_KICK, u64(0)), 0),
    "a kick with one too many": (message(SET_VRING_KICK, u64(0x100)), 1),
    "a kick with strange bits": (message(SET_VRING_KICK, u64(1 << 40)), 1),
    "a kick that is a file": (message(SET_VRING_KICK, u64(0)), 1),
    "an error descriptor too many": (message(SET_VRING_ERR, u64(0x100)), 1),
    "enabled by two": (message(SET_VRING_ENABLE, state(0, 2)), 0),
    "features not offered": (message(SET_FEATURES, u64(1 << 60)), 0),
    "other features while running": (message(SET_FEATURES, u64(PROTOCOL)), 0),
    "protocol features not offered": (message(SET_PROTOCOL_FEATURES, u64(1 << 14)), 0),
    "a status of nine bits": (message(SET_STATUS, u64(0x100)), 0),
    "configuration without size": (message(GET_CONFIG, bytes(8)), 0),
    "more configuration than came": (message(GET_CONFIG, struct.pack("=III", 0, 99, 0)), 0),
    "configuration at 2^32 - 1": (
        message(GET_CONFIG, struct.pack("=III", 0xFFFFFFFF, 8, 0) + bytes(8)), 0),
    "read-only configuration": (
        message(SET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(8)), 0),
    "a backend channel that is a file": (message(21), 1),
    "an in-flight buffer while running": (message(SET_INFLIGHT_FD, inflight(MEMORY)), 1),
    "half an in-flight description": (message(GET_INFLIGHT_FD, bytes(16)), 0),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_message_costs_the_connection(outboard, name):
    data, count = MALFORMED[name]
    before = descriptors(outboard)
    with FrontEnd(outboard.socket) as front_end:
        front_end.start()
        assert front_end.read() == 0
        try:
            front_end.send_raw(data, [front_end.memory] * count)
        except Ended:
            pass
        assert front_end.has_ended()
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


# What has an answer, an error: the connection goes on.
REFUSED = {
    "features": (SET_FEATURES, u64(1 << 60), 0),
    "an unknown request": (4711, b"x", 0),
    "a log larger than its file": (SET_LOG_BASE, struct.pack("=QQ", 2 * MEMORY, 0), 1),
    "a log of nothing": (SET_LOG_BASE, struct.pack("=QQ", 0, 0), 1),
    "a log too small for the memory": (SET_LOG_BASE, struct.pack("=QQ", 8, 0), 1),
    "a region beyond its file": (ADD_MEM_REG, bytes(8) + region(1 << 30, offset=4096), 1),
    "a ring nowhere": (SET_VRING_ADDR, ring_address(1, descriptor=4096), 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_with_need_reply_keeps_the_connection(outboard, name):
    request, payload, count = REFUSED[name]
    with FrontEnd(outboard.socket) as front_end:
        front_end.start()
        assert front_end.ask(request, payload, [front_end.memory] * count) != 0
        assert front_end.read() == 0


def handshake():
    """What a front-end says before its ring runs, as one stream, and the descriptors."""
    return [(message(SET_PROTOCOL_FEATURES, u64(0x1B62B)), ""), (message(SET_OWNER), ""),
            (message(SET_FEATURES, u64(VERSION_1 | PROTOCOL)), ""),
            (message(SET_MEM_TABLE, table(region())), "memory"),
            (message(SET_VRING_NUM, state(0, SIZE)), ""),
            (message(SET_VRING_BASE, state(0, 0)), ""),
            (message(SET_VRING_ADDR, ring_address()), ""),
            (message(SET_VRING_CALL, u64(0)), "call"),
            (message(SET_VRING_KICK, u64(0)), "kick"),
            (message(SET_VRING_ENABLE, state(0, 1)), "")]


def play(front_end, stream):
    for data, attribute in stream:
        front_end.send_raw(data, [getattr(front_end, attribute)] if attribute else [])


def test_truncated_at_every_message_and_within(outboard):
    before = descriptors(outboard)
    stream = handshake()
    for count in range(len(stream)):
        for cut in (0, 1, 11, 12, len(stream[count][0]) - 1):
            with FrontEnd(outboard.socket) as front_end:
                play(front_end, stream[:count])
                if cut:
                    play(front_end, [(stream[count][0][:cut], stream[count][1])])
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


def test_byte_by_byte(outboard):
    with FrontEnd(outboard.socket) as front_end:
        for data, attribute in handshake():
            for i in range(len(data)):
                fds = [getattr(front_end, attribute)] if attribute and i == 0 else []
                front_end.send_raw(data[i:i + 1], fds)
                time.sleep(0.0005)
        assert front_end.read() == 0


def test_all_in_one_go(outboard):
    """Messages that wait in the socket are taken one after the other, each with its descriptors."""
    with FrontEnd(outboard.socket) as front_end:
        play(front_end, handshake())
        for _ in range(100):
            front_end.send(GET_QUEUE_NUM)
        for _ in range(100):
            assert front_end.reply(GET_QUEUE_NUM)[0] == u64(2)
        assert front_end.read() == 0


def mutate(stream, chance):
    mutated = []
    for data, attribute in stream:
        data = bytearray(data)
        if chance.random() < 0.4:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.1:
            attribute = chance.choice(["", "memory", "kick"])
        if chance.random() < 0.1:
            data = data[:chance.randrange(1, len(data) + 1)]
        mutated.append((bytes(data), attribute))
    if chance.random() < 0.3:
        chance.shuffle(mutated)
    return mutated


def test_mutated_handshakes(outboard):
    before = descriptors(outboard)
    chance = random.Random(2026)
    for _ in range(300):
        with FrontEnd(outboard.socket) as front_end:
            try:
                play(front_end, mutate(handshake(), chance))
                os.eventfd_write(front_end.kick, 1)
            except Ended:
                pass
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


def test_random_bytes(outboard):
    chance = random.Random(2027)
    for _ in range(200):
        with FrontEnd(outboard.socket) as front_end:
            try:
                front_end.send_raw(chance.randbytes(chance.randrange(1, 600)))
            except Ended:
                pass
    assert_serves(outboard)


def test_scribbled_rings(outboard):
    """A guest's ring that makes no sense costs the guest its queue."""
    chance = random.Random(2028)
    before = descriptors(outboard)
    for _ in range(100):
        with FrontEnd(outboard.socket) as front_end:
            front_end.start()
            front_end.ram[0:0x3000] = chance.randbytes(0x3000)
            os.eventfd_write(front_end.kick, 1)
            assert front_end.ask(GET_FEATURES)
            front_end.send(GET_VRING_BASE, state(0, 0))
            front_end.reply(GET_VRING_BASE)
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


# ---- files that shrink ----

def test_memory_that_shrinks(outboard):
    before = descriptors(outboard)
    with FrontEnd(outboard.socket) as front_end:
        front_end.start()
        assert front_end.read() == 0
        os.ftruncate(front_end.memory, 0)
        os.eventfd_write(front_end.kick, 1)
        time.sleep(0.1)
        front_end.send(GET_FEATURES)
        assert front_end.has_ended()
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


def test_payload_memory_that_shrinks(outboard):
    """The ring is there, what the request points to is not."""
    payload = memory_file()
    with FrontEnd(outboard.socket) as front_end:
        front_end.start()
        assert front_end.ask(ADD_MEM_REG, bytes(8) + region(1 << 30, user=1 << 40), [payload]) == 0
        os.ftruncate(payload, 0)
        front_end.submit_read()
        struct.pack_into("=QIHH", front_end.ram, 16, 1 << 30, 512, 3, 2)
        os.eventfd_write(front_end.kick, 1)
        time.sleep(0.1)
    os.close(payload)
    assert_serves(outboard)


def test_memory_that_shrinks_before_the_ring_starts(outboard):
    with FrontEnd(outboard.socket) as front_end:
        front_end.negotiate().share_memory()
        os.ftruncate(front_end.memory, 0)
        try:
            play(front_end, handshake()[4:])
            os.eventfd_write(front_end.kick, 1)
            front_end.send(GET_FEATURES)
        except Ended:
            pass
        assert front_end.has_ended()
    assert_serves(outboard)


def test_inflight_buffer_that_shrinks(outboard):
    with FrontEnd(outboard.socket) as front_end:
        front_end.negotiate()
        front_end.send(GET_INFLIGHT_FD, inflight(queues=2, queue_size=SIZE))
        payload, fds = front_end.reply(GET_INFLIGHT_FD)
        size = struct.unpack_from("=Q", payload)[0]
        assert os.fstat(fds[0]).st_size == size
        with pytest.raises(PermissionError):     # ours is sealed
            os.ftruncate(fds[0], 0)
        os.close(fds[0])
        buffer = memory_file(size)
        assert front_end.ask(SET_INFLIGHT_FD, inflight(size, queues=2), [buffer]) == 0
        front_end.share_memory().start_ring()
        assert front_end.read() == 0
        os.ftruncate(buffer, 0)
        front_end.submit_read()
        time.sleep(0.1)
        os.close(buffer)
    assert_serves(outboard)


def test_log_that_shrinks(outboard):
    log = memory_file(4096)
    with FrontEnd(outboard.socket) as front_end:
        front_end.start()
        assert front_end.ask(SET_LOG_BASE, struct.pack("=QQ", 4096, 0), [log]) == 0
        assert front_end.ask(SET_FEATURES, u64(VERSION_1 | PROTOCOL | LOG_ALL)) == 0
        assert front_end.read() == 0
        assert any(os.pread(log, 4096, 0))
        os.ftruncate(log, 0)
        assert front_end.read() == 0
    os.close(log)
    assert_serves(outboard)


def test_memory_that_shrinks_is_nobody_elses_business(tmp_path):
    """Another device of the process, on the same worker, serves on."""
    config = {"workers": 1, "devices": [
        {"type": "blk", "name": name, "disk": DISK, "socket-path": str(tmp_path / name)}
        for name in ("vda", "vdb")]}
    with Outboard(tmp_path, config=config) as process:
        with FrontEnd(str(tmp_path / "vda")) as victim, FrontEnd(str(tmp_path / "vdb")) as other:
            victim.start()
            other.start()
            for _ in range(5):
                assert victim.read() == 0 and other.read() == 0
            os.ftruncate(victim.memory, 0)
            os.eventfd_write(victim.kick, 1)
            for _ in range(100):
                assert other.read() == 0
            victim.send(GET_FEATURES)
            assert victim.has_ended()
            assert other.read() == 0
        assert process.stop() == 0


# ---- coming and going ----

def test_back_end_that_connects(tmp_path):
    """--connect: it comes when there is somebody, and again whenever the connection is lost."""
    path = str(tmp_path / "front-end")
    with Outboard(tmp_path, DISK, socket=path, connect=True) as process:
        wait_until(lambda: "trying again" in process.output(), 5, "a word on why nobody is there")
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                listener.settimeout(10)
                with FrontEnd(path, listener.accept()[0]) as front_end:
                    front_end.start()
                    assert front_end.read() == 0
            os.unlink(path)
        wait_until(lambda: process.output().count("trying again") > 1, 5, "the same of this outage")
        assert process.stop() == 0


def test_resize_is_told(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with Outboard(tmp_path, f"file:{disk}") as process, FrontEnd(process.socket) as front_end:
        front_end.start()
        ours, theirs = socket.socketpair()
        assert front_end.ask(SET_BACKEND_REQ_FD, b"", [theirs.fileno()]) == 0
        theirs.close()
        os.truncate(disk, 2 << 20)
        process.signal(signal.SIGHUP)
        ours.settimeout(10)
        assert ours.recv(100) == message(2)
        request = struct.pack("=III", 0, 8, 0) + bytes(8)
        front_end.send(GET_CONFIG, request)
        assert front_end.reply(GET_CONFIG)[0][12:] == u64((2 << 20) // 512)
        ours.close()


def test_reconnect_storm(outboard):
    before = descriptors(outboard)
    for i in range(300):
        with FrontEnd(outboard.socket) as front_end:
            if i % 3:
                front_end.start()
            if i % 3 == 1:
                front_end.submit_read()
    assert_nothing_is_left(outboard, before)
    assert_serves(outboard)


def test_many_at_once_are_served_in_turn(outboard):
    crowd = [FrontEnd(outboard.socket) for _ in range(12)]
    for front_end in crowd:
        assert front_end.start().read() == 0
        front_end.close()


def test_second_client_waits(outboard):
    with FrontEnd(outboard.socket) as first, FrontEnd(outboard.socket) as second:
        first.start()
        second.send(GET_FEATURES)
        second.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.receive(1)
        assert first.read() == 0
        first.socket.shutdown(socket.SHUT_RDWR)
        second.socket.settimeout(10)
        assert second.reply(GET_FEATURES)


def test_client_that_does_not_read(outboard):
    """It holds nobody up for ever: its connection is dropped, and who waits behind it is served."""
    with FrontEnd(outboard.socket) as silent, FrontEnd(outboard.socket) as patient:
        silent.socket.settimeout(0.2)
        sent = 0
        try:
            while sent < 1000000:
                silent.send_raw(message(GET_PROTOCOL_FEATURES) * 100)
                sent += 100
        except (TimeoutError, Ended):
            pass
        assert 0 < sent < 1000000
        patient.socket.settimeout(20)
        assert patient.start().read() == 0


def test_half_a_message_that_keeps_itself_alive(outboard):
    """Its own end of the socket is in the message that it never completes: its closing it would not
    be noticed, and nobody would be served any more."""
    before = descriptors(outboard)
    with FrontEnd(outboard.socket) as front_end:
        data = message(SET_MEM_TABLE, table(region()))
        front_end.send_raw(data[:20], [front_end.socket.fileno()])
    assert_serves(outboard)
    assert_nothing_is_left(outboard, before)


def test_stopped_in_the_middle(tmp_path):
    """SIGTERM with a running ring, and with half a message received."""
    with Outboard(tmp_path, DISK) as process:
        wait_until(lambda: answers(process), 10, "outboard")
        with FrontEnd(process.socket) as front_end:
            front_end.start()
            assert front_end.read() == 0
            front_end.send_raw(message(GET_VRING_BASE, state(0, 0))[:15])
            begun = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - begun < 3
            assert front_end.has_ended()
            assert not os.path.exists(process.socket)


def test_socket_in_use(outboard, tmp_path):
    second = Outboard(tmp_path, DISK, socket=outboard.socket)
    with open(second.log, "ab") as log:
        assert subprocess.run(second.arguments, stderr=log, check=False, timeout=10).returncode
    assert "is in use" in second.output()
    assert_serves(outboard)


PACKED, EVENT_IDX, RING_RESET, FLUSH, MQ = (1 << n for n in (34, 29, 40, 9, 12))


@pytest.mark.parametrize("features, offered", [
    ("-packed,-event_idx", lambda bits: not bits & (PACKED | EVENT_IDX) and bits & MQ),
    ("only:mq", lambda bits: bits == MQ | VERSION_1 | PROTOCOL | LOG_ALL),
])
def test_features_can_be_left_out(tmp_path, features, offered):
    """If this fails, a VM cannot come from another back-end and go back there."""
    with Outboard(tmp_path, DISK, f"--features={features}") as process:
        with FrontEnd(process.socket) as front_end:
            assert offered(front_end.ask(GET_FEATURES, flags=VERSION))
            front_end.start().read()


def test_a_mismatch_is_refused_by_name(tmp_path):
    """If this fails, nobody knows why a migration is refused."""
    with Outboard(tmp_path, DISK, "--features=-packed,-event_idx") as process:
        with FrontEnd(process.socket) as front_end:
            front_end.send(SET_OWNER)
            front_end.send(SET_FEATURES, u64(VERSION_1 | PACKED | EVENT_IDX))
            assert front_end.has_ended()
        assert ("the driver has negotiated event_idx, packed, which this device does not offer "
                "(see --features)") in process.output()
