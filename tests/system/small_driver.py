"""A guest in a hundred lines: one virtio-blk request at a time, over a real vhost-user socket.

For tests of the program around the device, which need some request but no virtual machine.
Split ring, virtio 1.3, 2.7; messages of QEMU's docs/interop/vhost-user.rst."""
import mmap
import os
import select
import socket
import struct

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 8, 9, 10
SET_VRING_KICK, SET_VRING_CALL = 12, 13
VERSION_1 = 1 << 32
MEMORY, QUEUE_SIZE = 1 << 20, 8
USER_ADDRESS = 0x10000000       # what the back-end shall call our memory; its guest address is 0
DESCRIPTORS, AVAILABLE, USED, HEADER, STATUS, DATA = 0, 0x1000, 0x2000, 0x3000, 0x3800, 0x4000
NEXT, WRITE = 1, 2              # descriptor flags
READ_REQUEST, WRITE_REQUEST, FLUSH_REQUEST = 0, 1, 4


class SmallDriver:
    """Connects, sets up queue 0, and submits requests of 4 KiB."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.memory_fd = os.memfd_create("small_driver")
        os.ftruncate(self.memory_fd, MEMORY)
        self.memory = mmap.mmap(self.memory_fd, MEMORY)
        self.kick, self.call = os.eventfd(0), os.eventfd(0)
        self.submitted = 0
        self._negotiate()
        self._start_queue()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.memory.close()
        for fd in (self.memory_fd, self.kick, self.call):
            os.close(fd)

    def _send(self, request, payload=b"", fds=()):
        message = struct.pack("<III", request, 1, len(payload)) + payload
        socket.send_fds(self.socket, [message], list(fds))

    def _ask(self, request):
        self._send(request)
        reply = self.socket.recv(20, socket.MSG_WAITALL)
        assert struct.unpack_from("<I", reply)[0] == request
        return struct.unpack_from("<Q", reply, 12)[0]

    def _negotiate(self):
        self._send(SET_OWNER)
        assert self._ask(GET_FEATURES) & VERSION_1
        self._send(SET_FEATURES, struct.pack("<Q", VERSION_1))
        region = struct.pack("<QQQQ", 0, MEMORY, USER_ADDRESS, 0)
        self._send(SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, [self.memory_fd])

    def _start_queue(self):
        self._send(SET_VRING_NUM, struct.pack("<II", 0, QUEUE_SIZE))
        self._send(SET_VRING_BASE, struct.pack("<II", 0, 0))
        rings = [USER_ADDRESS + at for at in (DESCRIPTORS, USED, AVAILABLE)]
        self._send(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *rings, 0))
        self._send(SET_VRING_CALL, struct.pack("<Q", 0), [self.call])
        self._send(SET_VRING_KICK, struct.pack("<Q", 0), [self.kick])

    def submit(self, kind, sector=0):
        """Header, data unless it is a flush, status: chained descriptors 0, 1, 2."""
        self.memory[STATUS] = 0xff
        struct.pack_into("<IIQ", self.memory, HEADER, kind, 0, sector)
        chain = [(HEADER, 16, 0), (DATA, 4096, WRITE if kind == READ_REQUEST else 0),
                 (STATUS, 1, WRITE)]
        if kind == FLUSH_REQUEST:
            del chain[1]
        for i, (address, length, flags) in enumerate(chain):
            last = i == len(chain) - 1
            struct.pack_into("<QIHH", self.memory, DESCRIPTORS + 16 * i, address, length,
                             flags | (0 if last else NEXT), 0 if last else i + 1)
        struct.pack_into("<H", self.memory, AVAILABLE + 4 + 2 * (self.submitted % QUEUE_SIZE), 0)
        self.submitted += 1
        struct.pack_into("<H", self.memory, AVAILABLE + 2, self.submitted)
        os.eventfd_write(self.kick, 1)

    def wait(self, seconds=10):
        """The status byte of the one request under way."""
        while struct.unpack_from("<H", self.memory, USED + 2)[0] != self.submitted:
            assert select.select([self.call], [], [], seconds)[0], "no interrupt came"
            os.eventfd_read(self.call)
        return self.memory[STATUS]

    def run(self, kind, sector=0):
        self.submit(kind, sector)
        return self.wait()
