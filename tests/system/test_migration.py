"""Live migration of Debian guests between stock QEMUs, each with an Outboard of its own, under load:
disks with either kind of ring, and a network device whose TCP streams and pings go on."""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bed import (QEMU, Disk, Guest, Migration, Namespace, Nic, Outboard, Process, StorageDaemon,
                 VirtualMachine, fio, vfio_user_qemu, wait_until)
from conftest import quiet, running

pytestmark = pytest.mark.vm

PEERS = Path(__file__).resolve().parent / "peers"
# How many migrations there and back of each world; "by hand" many more: see docs/migration.md.
ROUNDS = int(os.environ.get("MIGRATION_ROUNDS", "0"))
SEED = int(os.environ.get("MIGRATION_SEED", "2026"))

MAC = "52:54:00:00:05:01"
HOST, GUEST = "10.8.5.1", "10.8.5.2"
RINGS = ("split", "packed")
# What qemu-storage-daemon does not offer: with that, the split disk can go to it and come back.
MASKED = "-packed,-any_layout"
JOBS, JOB_MEGABYTES = 2, 16
ANNOUNCED_SECONDS = 5
KILLS = int(os.environ.get("MIGRATION_KILLS", "3"))
STARTS = 20
PROGRESS = 20            # requests to write
# Without KVM, QEMU 7.2 crashes where a vhost-user network device has MSI-X, and its guest may hang after
# a migration that had to send pages again, with or without us: there it stands still meanwhile.
LIMITS = {"7.2": {"cpus": 1, "net": {"vectors": 0}, "how": {"paused": True, "bandwidth": 1 << 30}},
          "11.1": {"cpus": 2, "net": {}, "how": {}}}


class Network:
    """A bridge, to which each Outboard has a TAP interface, and a host behind it."""

    def __init__(self, directory):
        if not os.path.exists("/dev/net/tun"):
            pytest.skip("unavailable: no /dev/net/tun here")
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
    qemu-storage-daemon."""

    def __init__(self, world, number, incoming=True, delay=None, masked=MASKED, peer=False):
        self.name = f"place{number}"
        self.world = world
        self.tap = f"tap{number}"
        self.delay = delay      # of each request, as the filter has it
        self.features = {"split": {"features": masked}}
        self.peer = StorageDaemon(world.images["split"], self.socket("split"),
                                  LIMITS[world.version]["cpus"]) if peer else None
        self.outboard = Outboard(world.directory, name=self.name, prefix=world.network.host.prefix,
                                 config={"devices": [*self.blk(), self.net()]})
        limits = LIMITS[world.version]
        options = {"net0": {"mac": MAC, **limits["net"]}, "split": {"packed": "off"},
                   "packed": {"packed": "on"}}
        devices = [Disk(self.socket(ring), name=ring, qemu=world.qemu, queues=limits["cpus"],
                        options=options[ring]) for ring in RINGS]
        devices.append(Nic(self.socket("net0"), qemu=world.qemu, reconnects=True,
                           options=options["net0"]))
        self.vm = VirtualMachine(world.directory, world.guest, name=f"{self.name}-vm",
                                 qemu=world.qemu, cpus=limits["cpus"], disks=devices, memory=384,
                                 drive=world.drive, incoming=incoming)

    def socket(self, device):
        return str(self.world.directory / f"{self.name}-{device}.sock")

    def disk(self, ring):
        slow, time = ("delay+", f"&time={self.delay}") if self.delay else ("", "")
        return f"{slow}file:{self.world.images[ring]}?lock=off{time}"

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


class World:
    """One guest, and the places that it goes to one after the other; all share the disks."""

    def __init__(self, version):
        self.version = version
        self.qemu = vfio_user_qemu() if version == "11.1" else QEMU
        self.guest = Guest.make()
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        self.images = {ring: self.directory / f"{ring}.img" for ring in RINGS}
        for image in self.images.values():
            image.write_bytes(b"")
            os.truncate(image, (JOBS + 1) * JOB_MEGABYTES << 20)
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
        """The guest is there: the place that it has left is of no use any more."""
        left, self.here, self.there = self.here, self.there, None
        left.leave()

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

    def end(self):
        for place in (self.here, self.there):
            if place is not None:
                place.abandon()
        self.network.end()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module", name="world", params=["11.1", "7.2"])
def world_fixture(request):
    with running(World, request.param) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernel(world):
    with quiet(world):
        yield


class Load:
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


@pytest.fixture(scope="module", name="load")
def load_fixture(request, world):
    """Over all tests of a world: what it finds at the end, it finds in each of them."""
    load = Load(world)
    failed = request.session.testsfailed
    try:
        yield load.start()
        if request.session.testsfailed == failed:
            load.stop()
    finally:
        load.abandon()


def test_there_and_back(world, load):
    """If this fails, a guest that migrates loses data, requests or its connections."""
    for _ in range(ROUNDS or 4):
        world.migrate()
        load.wait_progress()
    report(world)
    for migration, _ in world.figures:
        assert any(migration.begun <= when <= migration.ended + ANNOUNCED_SECONDS
                   for when, _ in world.network.announcements()), "nobody knows the new place"


def test_slow_storage(world, load):
    """If this fails, requests that take long are lost when the guest leaves, or hold it for ever."""
    world.migrate(delay="300ms")
    load.wait_progress()
    world.migrate()
    load.wait_progress()


def test_storage_daemon(world, load):
    """If this fails, a guest cannot come from qemu-storage-daemon, or cannot go back to it."""
    there = world.migrate(peer=True)
    load.wait_progress()
    back = world.migrate()
    load.wait_progress()
    for way, state in (("to", there), ("from", back)):
        print(f"{way} qemu-storage-daemon: {state['total-time']} ms, down {state['downtime']} ms")


def test_cancelled(world, load):
    """If this fails, a guest that was to go and stays is left with a log, or without its disks."""
    migration = world.prepare().start_slowly()
    migration.wait_under_way()
    migration.cancel()
    assert migration.wait()["status"] == "cancelled"
    world.stay()
    load.wait_progress()
    world.migrate()


def test_destination_dies(world, load):
    """If this fails, the end of a destination before the guest has left is the guest's end."""
    migration = world.prepare().start_slowly()
    migration.wait_under_way()
    world.there.vm.kill()
    assert migration.wait()["status"] == "failed"
    world.stay()
    load.wait_progress()


def test_fewer_features(world, load):
    """If this fails, a guest loses a feature that it uses on its way, and does not know."""
    migration = world.prepare(masked=f"{MASKED},-discard")
    assert migration.start().wait()["status"] == "failed"
    wait_until(lambda: not world.there.vm.running, 20, "the destination to refuse")
    assert "unsupported. Allowed features" in world.stay()
    load.wait_progress()


# QEMU 7.2 forgets what is in flight when a device ends while it is being stopped.
@pytest.mark.parametrize("world", ["11.1"], indirect=True)
def test_outboards_killed(world, load):
    """If this fails, a crash of either Outboard during a migration costs the guest data or its life."""
    print(f"seed {SEED}")
    for _ in range(KILLS):
        migration = world.prepare().start_slowly()
        victim = world.random.choice([world.here, world.there])
        role = "source" if victim is world.here else "destination"
        time.sleep(world.random.uniform(0, 2))
        killed = time.time() - migration.begun
        victim.restart_outboard()
        status = migration.wait()["status"]
        print(f"the {role}'s Outboard was killed at {killed:.2f} s of "
              f"{migration.ended - migration.begun:.2f} s: {status}")
        if status == "completed":
            migration.wait_resumed()
            world.arrive()
        else:
            world.stay()
        load.wait_progress()


def lost_pings(pings, since, until):
    """(how many were not answered, the longest silence in seconds) between two times."""
    near = [ping for ping in pings if since - 1 <= ping[0] <= until + 1]
    pairs = list(zip(near, near[1:]))
    return (sum(after[1] - before[1] - 1 for before, after in pairs),
            max((after[0] - before[0] for before, after in pairs), default=0))


def report(world):
    """One line for each migration: what docs/migration.md tells."""
    pings = world.network.pings()
    print("\nQEMU    total ms  downtime ms  MiB  passes  pings lost  silence ms")
    for migration, state in world.figures:
        lost, silence = lost_pings(pings, migration.begun, migration.ended)
        print(f"{world.version:7} {state['total-time']:8} {state['downtime']:12} "
              f"{state['ram']['transferred'] >> 20:4} "
              f"{state['ram']['dirty-sync-count']:7} {lost:11} {silence * 1000:11.0f}")
