"""What a guest does while it migrates, and what notices if anything of it was lost."""
import contextlib
import hashlib
import subprocess

from . import fio
from .migration_world import DISK_MEGABYTES, HOST
from .process import wait_until

JOBS = 2
JOB_MEGABYTES = DISK_MEGABYTES // (JOBS + 1)
READERS = 8
PROGRESS = 20            # requests to write


class MigrationLoad:
    """Verifying loads on both disks and a TCP stream each way, all in the background of the guest,
    until stop() says that nothing was lost."""

    DOWN, UP = "5001", "5002"

    def __init__(self, world):
        self.world = world
        self.peer = None

    def start(self):
        self.world.run("rm -f /run/stop /run/*.end /run/*.sum")
        for ring, device in self.world.devices.items():
            command = fio.verifying(device, 4, jobs=JOBS, depth=16, megabytes=JOB_MEGABYTES,
                                    sizes="4k-64k")
            self._background(f"until [ -e /run/stop ]; do {command} >/run/{ring}.log 2>&1 || break; "
                             f"done; [ -e /run/stop ] && echo good >/run/{ring}.end || "
                             f"echo bad >/run/{ring}.end")
        self.peer = self.world.network.process("stream.py", HOST, self.DOWN, self.UP,
                                               stdin=subprocess.PIPE)
        self._background(f"exec 3<>/dev/tcp/{HOST}/{self.DOWN}; sha256sum <&3 >/run/down.sum")
        self._background(f"exec 3>/dev/tcp/{HOST}/{self.UP}; until [ -e /run/stop ]; do "
                         "head -c 32k /dev/urandom; sleep 0.1; done | "
                         "tee >(sha256sum >/run/up.sum) >&3")
        self.wait_progress()
        return self

    def _background(self, script):
        quoted = script.replace("'", "'\\''")
        self.world.run(f"setsid bash -c '{quoted}' </dev/null >/dev/null 2>&1 &")

    def writes(self):
        """How many requests to write each disk has done."""
        names = " ".join(f"/sys/block/{device[5:]}/stat" for device in self.world.devices.values())
        return [int(line.split()[4]) for line in self.world.run(f"cat {names}").splitlines()]

    def wait_progress(self):
        """It goes on, on all disks and over the network."""
        before, pings = self.writes(), len(self.world.network.pings())
        wait_until(lambda: all(more - less >= PROGRESS for more, less in zip(self.writes(), before)), 60,
                   "the load to go on")
        wait_until(lambda: len(self.world.network.pings()) > pings, 20, "the network to go on")
        self.world.run("for end in /run/*.end /run/*.sum; do [ ! -s $end ] || { cat $end /run/*.log; "
                       "exit 1; }; done")

    @contextlib.contextmanager
    def patient_reads(self):
        """So many requests wait at each disk all the time, unless it is fast."""
        self.world.run("rm -f /run/read /run/enough")
        for device in self.world.devices.values():
            self._background(f"for reader in $(seq {READERS}); do ( until [ -e /run/enough ]; do dd "
                             f"if={device} of=/dev/null bs=4k count=1 skip=$((RANDOM % 4096)) "
                             "iflag=direct status=none || exit; done; echo >>/run/read ) & done")
        for device in self.world.devices.values():
            wait_until(lambda path=device[5:]: sum(map(int, self.world.run(
                f"cat /sys/block/{path}/inflight").split())) >= READERS, 20, "the disks to be busy")
        yield
        self.world.run("touch /run/enough; until [ $(wc -l </run/read) = "
                       f"{READERS * len(self.world.devices)} ]; do sleep 0.1; done", 30)

    def stop(self):
        self.peer.popen.stdin.close()
        self.world.run("touch /run/stop")
        self.world.run("for end in split.end packed.end down.sum up.sum; do "
                       "until [ -s /run/$end ]; do sleep 0.1; done; done", 120)
        self.peer.popen.wait(20)
        self._compare_streams()
        for ring, device in self.world.devices.items():
            end = self.world.run(f"cat /run/{ring}.end /run/{ring}.log")
            assert end.startswith("good"), f"{ring}: {end}"
            guest = self.world.run(fio.digest(device), 120).strip()
            assert guest == digest(self.world.images[ring]), ring

    def _compare_streams(self):
        there = dict(line.split() for line in self.peer.output().splitlines() if " " in line)
        down, up = self.world.run("cat /run/down.sum /run/up.sum").split()[::2]
        assert (down, up) == (there["sent"], there["received"])

    def abandon(self):
        if self.peer is not None and self.peer.running:
            self.peer.kill()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
