"""Where a guest that migrates can be, and what is around it: a disk with either kind of ring, and a
network device whose TCP streams and pings go on."""
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .guest import Guest
from .migration import Migration, Suspension
from .namespace import Namespace, Unavailable
from .outboard import Outboard
from .process import Process, wait_until
from .storage_daemon import StorageDaemon
from .virtual_machine import QEMU, Disk, Nic, VirtualMachine, vfio_user_qemu

PEERS = Path(__file__).resolve().parents[1] / "peers"
SEED = int(os.environ.get("MIGRATION_SEED", "2026"))

MAC = "52:54:00:00:05:01"
HOST, GUEST = "10.8.5.1", "10.8.5.2"
RINGS = ("split", "packed")
# What qemu-storage-daemon does not offer: with that, the split disk can go to it and come back.
MASKED = "-packed,-any_layout"
DISK_MEGABYTES = 48
STARTS = 20
# Without KVM, QEMU 7.2 crashes where a vhost-user network device has MSI-X, and its guest may hang after
# a migration that had to send pages again, with or without us: there it stands still meanwhile.
# Nor does that guest announce itself: QEMU asks us to.
LIMITS = {"7.2": {"cpus": 1, "net": {"vectors": 0, "guest_announce": False}, "announces": "rarp",
                  "how": {"paused": True, "bandwidth": 1 << 30}},
          "11.1": {"cpus": 2, "net": {}, "announces": "arp", "how": {}}}


class Network:
    """A bridge, to which each Outboard has a TAP interface, and a host behind it."""

    def __init__(self, directory):
        if not os.path.exists("/dev/net/tun"):
            raise Unavailable("no /dev/net/tun here")
        self.directory = directory
        self.host = Namespace("lan")
        self.host.ip("link add lan address 52:54:00:00:05:ff type bridge",
                     f"addr add {HOST}/24 dev lan", "link set lan up")
        self.watch = self.process("watch_announcements.py", "lan", MAC)
        self.ping = None

    def process(self, peer, *arguments, **options):
        log = self.directory / f"{peer}.log"
        log.unlink(missing_ok=True)
        started = Process([*self.host.prefix, sys.executable, PEERS / peer, *arguments], log,
                          **options).start()
        wait_until(lambda: started.check_running() and "ready" in started.output(), 10, peer)
        return started

    def plug(self, tap):
        self.host.ip(f"link set {tap} master lan up")

    def start_pings(self):
        self.ping = Process([*self.host.prefix, "ping", "-D", "-i", "0.02", GUEST],
                            self.directory / "ping.log").start()

    def pings(self):
        """[(when it was answered, sequence number)] of all so far."""
        return [(float(when), int(number)) for when, number in
                re.findall(r"^\[([\d.]+)\].*icmp_seq=(\d+) ", self.ping.output(), re.MULTILINE)]

    def announcements(self):
        return [(float(line.split()[0]), line.split()[1])
                for line in self.watch.output().splitlines()[1:]]

    def end(self):
        for process in (self.watch, self.ping):
            if process is not None and process.running:
                process.kill()
        self.host.end()


class Place:
    """Where the guest can be: one Outboard and one QEMU.  peer: the split disk is served by
    qemu-storage-daemon.  goes_along: what is in flight may leave with the guest."""

    def __init__(self, world, number, incoming=True, delay=None, masked=MASKED, peer=False,
                 goes_along=False):
        self.name = f"place{number}"
        self.world = world
        self.tap = f"tap{number}"
        self.delay = delay      # of each request: the filter's options
        self.goes_along = goes_along
        self.counters = None    # when the guest had left
        self.features = {"split": {"features": masked}}
        self.peer = StorageDaemon(world.images["split"], self.socket("split"),
                                  LIMITS[world.version]["cpus"]) if peer else None
        self.outboard = Outboard(world.directory, name=self.name, prefix=world.network.host.prefix,
                                 config={"devices": [*self.blk(), self.net()]})
        self.vm = self.machine("vm", incoming)

    def machine(self, name, incoming=True):
        limits = LIMITS[self.world.version]
        more = {"inflight-migration": "on"} if self.goes_along else {}
        devices = [Disk(self.socket(ring), name=ring, qemu=self.world.qemu, queues=limits["cpus"],
                        options={"packed": "on" if ring == "packed" else "off", **more})
                   for ring in RINGS]
        devices.append(Nic(self.socket("net0"), qemu=self.world.qemu, reconnects=True,
                           options={"mac": MAC, **limits["net"]}))
        return VirtualMachine(self.world.directory, self.world.guest, name=f"{self.name}-{name}",
                              qemu=self.world.qemu, cpus=limits["cpus"], disks=devices,
                              memory=384, drive=self.world.drive, incoming=incoming)

    def socket(self, device):
        return str(self.world.directory / f"{self.name}-{device}.sock")

    def disk(self, ring):
        slow, how = ("delay+", f"&{self.delay}") if self.delay else ("", "")
        return f"{slow}file:{self.world.images[ring]}?lock=off{how}"

    def blk(self):
        return [{"type": "blk", "name": ring, "serial": ring, "socket-path": self.socket(ring),
                 "disk": self.disk(ring), **self.features.get(ring, {})}
                for ring in RINGS if not (ring == "split" and self.peer)]

    def net(self):
        return {"type": "net", "name": "net0", "mac": MAC, "port": f"tap:{self.tap}",
                "socket-path": self.socket("net0")}

    def start(self):
        self.start_outboard()
        if self.peer:
            self.peer.start()
        self.vm.start()
        return self

    def start_outboard(self):
        self.outboard.start()
        self.world.network.plug(self.tap)

    def restart_outboard(self):
        """kill -9, and what a supervisor does then: the kernel may take a moment to let go of the
        TAP interface, and a start that failed is tried again."""
        self.outboard.kill()
        for attempt in range(STARTS):
            try:
                self.start_outboard()
                return
            except (RuntimeError, OSError):
                if attempt == STARTS - 1:
                    raise
                time.sleep(0.1)

    def leave(self):
        """In order: nobody needs this place any more."""
        self.counters = self.outboard.counters()
        self.vm.stop()
        status = self.outboard.stop()
        assert status == 0, f"outboard ended with {status}:\n{self.outboard.output()[-4000:]}"
        if self.peer:
            self.peer.stop()

    def abandon(self):
        for process in (self.vm, self.outboard, self.peer):
            if process is not None and process.running:
                process.kill()
        self.vm.stop()


class MigrationWorld:
    """One guest, and the places that it goes to one after the other; all share the disks."""

    def __init__(self, version):
        self.version = version
        self.qemu = vfio_user_qemu() if version == "11.1" else QEMU
        self.guest = Guest.make()
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        self.images = {ring: self.directory / f"{ring}.img" for ring in RINGS}
        for image in self.images.values():
            image.write_bytes(b"")
            os.truncate(image, DISK_MEGABYTES << 20)
        self.drive = self.directory / "root.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                        self.guest.disk, self.drive], check=True)
        self.random = random.Random(SEED)
        self.network = Network(self.directory)
        self.places = 0
        self.here = None
        self.there = None
        self.devices = {}
        self.figures = []

    def place(self, **how):
        self.places += 1
        return Place(self, self.places, **how)

    @property
    def vm(self):
        return self.here.vm

    def run(self, script, timeout=60):
        return self.vm.run(script, timeout)

    def start(self):
        self.here = self.place(incoming=False).start()
        self.vm.wait_ready()
        self.vm.run(f"modprobe virtio_net; sleep 0.5; ip link set eth0 up; "
                    f"ip addr add {GUEST}/24 dev eth0; ping -q -c 1 -W 5 {HOST}")
        for ring in RINGS:
            disk = self.vm.run(f"cd /sys/block; grep -lx {ring} vd*/serial").split("/")[0].strip()
            features = self.vm.run(f"cat /sys/block/{disk}/device/features").strip()
            assert features[34] == str(int(ring == "packed"))
            self.devices[ring] = f"/dev/{disk}"
        self.network.start_pings()
        return self

    def prepare(self, **how):
        """Another place, ready for the guest."""
        self.there = self.place(**how).start()
        return Migration(self.vm, self.there.vm, self.directory / f"to-{self.there.name}",
                         **LIMITS[self.version]["how"])

    def arrive(self):
        """The guest is there: the place that it has left is of no use any more, and is returned."""
        left, self.here, self.there = self.here, self.there, None
        left.leave()
        return left

    def stay(self):
        """The guest has not left: the other place is of no use.  Returns what its QEMU said."""
        there, self.there = self.there, None
        there.abandon()
        return there.vm.output()

    def migrate(self, **how):
        """There, with everything that goes with it; returns the figures."""
        migration = self.prepare(**how)
        state = migration.move()
        self.arrive()
        self.figures.append((migration, state))
        return state

    def suspend(self):
        """The guest lies in a file for a while; the Outboard here sees one QEMU go, another come."""
        place = self.here
        suspension = Suspension(self.vm, place.machine("again"), self.directory / "suspended",
                                **LIMITS[self.version]["how"])
        state = suspension.start().wait()
        assert state["status"] == "completed", f"{state}\n{self.vm.output()}"
        place.vm = suspension.destination
        suspension.resume()

    def end(self):
        for place in (self.here, self.there):
            if place is not None:
                place.abandon()
        self.network.end()
        shutil.rmtree(self.directory, ignore_errors=True)
