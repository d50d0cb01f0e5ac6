"""Fixtures of the system tests."""
import contextlib
import hashlib
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bed import Guest, NbdServer, Outboard, Unavailable, VirtualMachine  # noqa: E402

# What the guest's kernel says when a disk has let it down, or when it is itself in trouble.
TROUBLE = re.compile(r"I/O error|EXT4-fs error|blocked for more than|BUG:|Oops|Call Trace|"
                     r"virtio.*(?:is not a head|id out of range)|request timeout")


@contextlib.contextmanager
def running(kind, *arguments):
    """A world of that kind, from its start to its end."""
    try:
        world = kind(*arguments)
    except Unavailable as error:
        pytest.skip(f"unavailable: {error}")
    try:
        yield world.start()
    finally:
        world.end()


@contextlib.contextmanager
def quiet(*machines):
    """Their kernels have nothing to complain about meanwhile."""
    for machine in machines:
        machine.run("dmesg --clear")
    yield
    for machine in machines:
        bad = [line for line in machine.run("dmesg").splitlines() if TROUBLE.search(line)]
        assert not bad, "\n".join(bad)


def pytest_configure():
    """So that finalizers run, and end what was started, when the run itself is ended.

    Only a main thread can ask for a signal, and a worker of xdist now and then is not in its own.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


# By how long they take: lanes that begin with these end at about the same time.
LONGEST = ["test_vfio_user", "test_migration", "test_net", "test_verify", "test_crash", "test_vfio_user_machines",
           "test_net_ports", "test_net_vxlan", "test_net_tap", "test_boot"]


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.module.__name__
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)
    items.sort(key=place)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Lets fixtures know whether the test itself failed."""
    report = (yield).get_result()
    if report.when == "call":
        item.failed = report.failed


@pytest.fixture(name="directory")
def directory_fixture():
    """For sockets, logs and disks: short, since a socket's path is at most 107 bytes long."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="outboard."))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session", name="guest")
def guest_fixture():
    return Guest.make()


class SharedMachine:
    """One booted VM for all tests that only plug disks into it; booted again if one broke it."""

    def __init__(self, guest):
        self.guest = guest
        self.directory = tempfile.mkdtemp(prefix="outboard.")
        self.vm = None
        self.boots = 0

    def take(self):
        if self.vm is None:
            self.boots += 1
            self.vm = VirtualMachine(self.directory, self.guest, name=f"vm{self.boots}").boot()
        return self.vm

    def give_back(self):
        """A VM that does not answer, or still has a test's disk, is of no use to the next test."""
        try:
            usable = self.vm.run("cd /sys/block; ls -d vd*", 10).split() == ["vda"]
        except (OSError, ValueError, RuntimeError):
            usable = False
        if not usable:
            self.discard()

    def discard(self):
        if self.vm is not None:
            self.vm.kill()
            self.vm.stop()
            self.vm = None


@pytest.fixture(scope="session", name="machine")
def machine_fixture(guest):
    shared = SharedMachine(guest)
    yield shared
    shared.discard()
    shutil.rmtree(shared.directory, ignore_errors=True)


@pytest.fixture(name="bed")
def bed_fixture(request, machine, directory):
    """What most tests need: a booted VM into which they plug disks.  Ends all that they started."""
    test_bed = Bed(machine.take(), directory)
    test_bed.vm.run("dmesg --clear")
    try:
        yield test_bed
        if not getattr(request.node, "failed", True):
            test_bed.end(check=not request.node.get_closest_marker("io_errors"))
    finally:
        test_bed.abandon()
        machine.give_back()


class Bed:
    def __init__(self, vm, directory):
        self.vm = vm
        self.directory = directory
        self.processes = []
        self.disks = []
        self.random = random.Random(2026)

    def path(self, name):
        return str(self.directory / name)

    def image(self, name, megabytes):
        """A sparse file."""
        path = self.directory / name
        with open(path, "wb") as image:
            image.truncate(megabytes << 20)
        return str(path)

    def digest(self, path):
        """The checksum of a file of this host."""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def nbd(self, *plugin, **options):
        return self.start(NbdServer(self.directory, *plugin, **options))

    def outboard(self, disk, *options, **more):
        return self.start(Outboard(self.directory, disk, *options, **more))

    def start(self, process):
        self.processes.append(process)
        return process.start()

    def plug(self, disk):
        """Into the VM; returns the guest's name for the disk ("/dev/vdb")."""
        name = self.vm.attach(disk)
        self.disks.append(disk)
        return f"/dev/{name}"

    def unplug(self, disk):
        self.disks.remove(disk)
        self.vm.detach(disk)

    def end(self, check):
        """The orderly end: the guest lets go of the disks, and had nothing to complain about."""
        messages = self.vm.run("dmesg")
        for disk in list(self.disks):
            self.unplug(disk)
        if check:
            bad = [line for line in messages.splitlines() if TROUBLE.search(line)]
            assert not bad, "the guest's kernel complains:\n" + "\n".join(bad)
        for process in reversed(self.processes):
            process.check_running()
            status = process.stop()
            assert not isinstance(process, Outboard) or status == 0, \
                f"outboard ended with {status}:\n{process.output()[-4000:]}"

    def abandon(self):
        """After a failure: whatever still runs is killed, the disks are left to the VM's end."""
        for process in self.processes:
            state = "running" if process.running else f"ended with {process.popen.returncode}"
            print(f"---- {process.log}, {state}\n{process.output()[-3000:]}")
            if process.running:
                process.kill()
