"""A vhost-user front-end with a guest of one queue and one request, for tests of the protocol.

It can break every rule: messages are sent as the caller says, byte for byte.
"""
import mmap
import os
import select
import socket
import struct
import time

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER = 1, 2, 3, 4
SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD = 5, 6, 7
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE = 31, 32, 34
GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG, SET_STATUS, GET_STATUS = 36, 37, 38, 39, 40

VERSION, REPLY, NEED_REPLY = 1, 4, 8
VERSION_1, PROTOCOL, LOG_ALL = 1 << 32, 1 << 30, 1 << 26

GUEST = 0x100000            # guest address of the memory
USER = 0x7F0000000000       # ... and the front-end's own
MEMORY = 1 << 20
SIZE = 16                   # descriptors of the ring
TIMEOUT = 10                # seconds, for anything that must happen


class Ended(Exception):
    """The back-end has closed the connection."""


def message(request, payload=b"", flags=VERSION, size=None):
    return struct.pack("=III", request, flags, len(payload) if size is None else size) + payload


def u64(number):
    return struct.pack("=Q", number)


def state(index, number):
    return struct.pack("=II", index, number)


def region(guest=GUEST, size=MEMORY, user=USER, offset=0):
    return struct.pack("=QQQQ", guest, size, user, offset)


def table(*regions, count=None):
    return struct.pack("=II", len(regions) if count is None else count, 0) + b"".join(regions)


def ring_address(index=0, flags=0, descriptor=USER, used=USER + 0x2000, available=USER + 0x1000):
    return struct.pack("=IIQQQQ", index, flags, descriptor, used, available, 0)


def inflight(size=0, offset=0, queues=1, queue_size=SIZE):
    return struct.pack("=QQHHI", size, offset, queues, queue_size, 0)


def memory_file(size=MEMORY):
    fd = os.memfd_create("guest", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


class FrontEnd:
    """Context manager: leaving it closes everything."""

    def __init__(self, path, accepted=None):
        """Connects to path, or takes a socket that a back-end has connected to."""
        self.socket = accepted or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if not accepted:
            self.socket.connect(path)   # blocks while the back-end's backlog is full
        self.socket.settimeout(TIMEOUT)
        self.memory = memory_file()
        self.ram = mmap.mmap(self.memory, MEMORY)
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.available = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close()

    def close(self):
        self.socket.close()
        self.ram.close()
        for fd in (self.memory, self.kick, self.call):
            os.close(fd)

    # ---- messages ----

    def send_raw(self, data, fds=()):
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds))
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Ended from None

    def send(self, request, payload=b"", fds=(), flags=VERSION):
        self.send_raw(message(request, payload, flags), fds)

    def receive(self, count):
        data = b""
        fds = []
        while len(data) < count:
            try:
                part, more, _, _ = socket.recv_fds(self.socket, count - len(data), 8)
            except ConnectionResetError:
                raise Ended from None
            if not part:
                raise Ended
            data += part
            fds += more
        return data, fds

    def reply(self, request):
        """The payload, and descriptors."""
        header, fds = self.receive(12)
        number, flags, size = struct.unpack("=III", header)
        assert number == request and flags == VERSION | REPLY
        payload, more = self.receive(size) if size else (b"", [])
        return payload, fds + more

    def ask(self, request, payload=b"", fds=(), flags=VERSION | NEED_REPLY):
        """The number that the reply is."""
        self.send(request, payload, fds, flags)
        return struct.unpack("=Q", self.reply(request)[0])[0]

    def has_ended(self, timeout=TIMEOUT):
        """Whether the back-end closes the connection, whatever it says before."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    # ---- the well-behaved front-end ----

    def negotiate(self):
        offered = self.ask(GET_PROTOCOL_FEATURES, flags=VERSION)
        self.send(SET_PROTOCOL_FEATURES, u64(offered))
        self.send(SET_OWNER)
        assert self.ask(GET_FEATURES) & VERSION_1
        assert self.ask(SET_FEATURES, u64(VERSION_1 | PROTOCOL)) == 0
        return self

    def share_memory(self):
        assert self.ask(SET_MEM_TABLE, table(region()), [self.memory]) == 0
        return self

    def start_ring(self, base=0):
        self.available = base
        assert self.ask(SET_VRING_NUM, state(0, SIZE)) == 0
        assert self.ask(SET_VRING_BASE, state(0, base)) == 0
        assert self.ask(SET_VRING_ADDR, ring_address()) == 0
        assert self.ask(SET_VRING_CALL, u64(0), [self.call]) == 0
        assert self.ask(SET_VRING_KICK, u64(0), [self.kick]) == 0
        assert self.ask(SET_VRING_ENABLE, state(0, 1)) == 0
        return self

    def start(self):
        return self.negotiate().share_memory().start_ring()

    def submit_read(self, sector=0):
        """virtio 1.3, 5.2.6: header, 512 bytes, status; made available and kicked."""
        struct.pack_into("=IIQ", self.ram, 0x3000, 0, 0, sector)
        self.ram[0x5000] = 0xFF
        chain = [(0x3000, 16, 1), (0x4000, 512, 3), (0x5000, 1, 2)]
        for i, (at, length, flags) in enumerate(chain):
            struct.pack_into("=QIHH", self.ram, i * 16, GUEST + at, length, flags, i + 1)
        struct.pack_into("=H", self.ram, 0x1004 + 2 * (self.available % SIZE), 0)
        self.available = (self.available + 1) & 0xFFFF
        # Not pack_into, which clears the bytes before it stores them: the index would run back.
        self.ram[0x1002:0x1004] = struct.pack("=H", self.available)
        os.eventfd_write(self.kick, 1)

    def used(self):
        return struct.unpack_from("=H", self.ram, 0x2002)[0]

    def read(self, sector=0):
        """Submits a read, waits for it, and returns its status."""
        self.submit_read(sector)
        deadline = time.monotonic() + TIMEOUT
        while self.used() != self.available:
            assert time.monotonic() < deadline, "a request was not served"
            select.select([self.call], [], [], 0.01)
        return self.ram[0x5000]
