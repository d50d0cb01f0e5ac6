"""PCI functions over vfio-user in a real guest, with memory that Outboard maps and with memory that
it reaches by messages alone.

Those with MSI-X stay plugged in: QEMU 11.1 aborts (memory_region_del_subregion) when such a vfio-user
device is unplugged, whoever serves it.
"""
import hashlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from bed import (Guest, Outboard, PciDisk, VirtualMachine, fio, vfio_user_qemu,
                 wait_until)
from conftest import quiet, running

pytestmark = pytest.mark.vm

SECONDS = 4
HOT_PLUGS = {"shared": 100, "private": 24}
FUNCTIONS = {"split1": (1, False), "packed1": (1, True),
             "split8": (8, False), "packed8": (8, True)}
# Beside those: queues that share a vector, and those that have the interrupt line only.
LINES = ["line1", "line2", "line3", "line4"]
VECTORS = {"shared8": 2, **{name: 0 for name in LINES}}


class World:
    """One card of several functions, one process that serves it, one VM that has them all."""

    def __init__(self, memory):
        self.memory = memory
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        self.outboard = Outboard(self.directory, config={"devices": [
            {**self.function(name), "queues": queues, "packed": "on" if packed else "off"}
            for name, (queues, packed) in FUNCTIONS.items()] + [
            {**self.function(name), "vectors": vectors} for name, vectors in VECTORS.items()]})
        self.vm = VirtualMachine(
            self.directory, Guest.make(), qemu=vfio_user_qemu(), shared=memory == "shared",
            disks=[PciDisk(self.socket(name), name=name) for name in [*FUNCTIONS, "shared8"]])

    def socket(self, name):
        return str(self.directory / f"{name}.sock")

    def function(self, name):
        return {"type": "blk", "name": name, "serial": name, "card": "test",
                "vfio-user": self.socket(name), "disk": f"file:{self.image(name)}"}

    def image(self, name):
        path = self.directory / f"{name}.img"
        with open(path, "wb") as image:
            image.truncate(fio.DISK_MEGABYTES << 20)
        return path

    def start(self):
        self.outboard.start()
        self.vm.boot()
        return self

    def device(self, name):
        """The guest's name of the disk, and of the PCI function that it is on."""
        disk = self.vm.run(f"cd /sys/block; grep -lx {name} vd*/serial").split("/")[0].strip()
        node = self.vm.run(f"readlink -f /sys/block/{disk}/device").strip()
        return f"/dev/{disk}", node.split("/")[-2]

    def end(self):
        self.vm.kill()
        self.vm.stop()
        self.outboard.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


# Each of both, and what the other way to the memory is likely to change.
EVERYWHERE = [("shared", name) for name in FUNCTIONS] + \
    [("private", name) for name in ("split8", "packed8")]


@pytest.fixture(scope="module", name="world", params=["shared", "private"])
def world_fixture(request):
    with running(World, request.param) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernel(world):
    """The guest's kernel has nothing to complain about in any of these tests."""
    with quiet(world.vm):
        yield


def read_back(world, device):
    """Something written and read again past the page cache: the function does work."""
    world.vm.run(f"""set -e
        for try in $(seq 100); do [ -b {device} ] && break; sleep 0.1; done
        dd if=/dev/urandom of=/run/pattern bs=64k count=16 status=none
        dd if=/run/pattern of={device} bs=64k oflag=direct status=none
        dd if={device} bs=64k count=16 iflag=direct status=none | cmp - /run/pattern""")


@pytest.mark.parametrize("world, name", EVERYWHERE, indirect=["world"])
def test_verify(world, name):
    """If this fails, requests over a PCI function get lost, torn or mixed up."""
    device, function = world.device(name)
    features = world.vm.run(f"cat /sys/bus/pci/devices/{function}/virtio*/features").strip()
    assert features[34] == ("1" if FUNCTIONS[name][1] else "0")
    world.vm.run(fio.verifying(device, SECONDS), timeout=120)
    theirs = world.vm.run(fio.digest(device), timeout=120).strip()
    ours = hashlib.sha256((world.directory / f"{name}.img").read_bytes()).hexdigest()
    assert ours == theirs


def run_during_load(world, device, script):
    """The script runs while data is written and verified, which it must not disturb."""
    world.vm.run(f"""
        ( {fio.verifying(device, SECONDS)}
        ) >/run/load 2>&1 & load=$!
        {{ {script}
        }} || exit 1
        wait $load || {{ cat /run/load; exit 1; }}""", timeout=180)


@pytest.mark.parametrize("name", ["split1", "packed8"])
def test_interrupts_move_between_processors(world, name):
    """If this fails, an interrupt is lost when its vector gets another address, and the guest
    waits.  The driver's vectors follow the processors that are there, not smp_affinity."""
    device, _ = world.device(name)
    before = world.vm.run("grep -c processor /proc/cpuinfo").strip()
    run_during_load(world, device, """
        for turn in 1 2; do for cpu in 1 2 3; do
            echo 0 >/sys/devices/system/cpu/cpu$cpu/online && sleep 0.2 || exit 1
            echo 1 >/sys/devices/system/cpu/cpu$cpu/online || exit 1
        done; done""")
    assert world.vm.run("grep -c processor /proc/cpuinfo").strip() == before == "4"


def test_interrupts_follow_their_affinity(world):
    """The same for a vector that queues share, which the guest's administrator may send anywhere."""
    device, function = world.device("shared8")
    node = f"/sys/bus/pci/devices/{function}"
    assert len(world.vm.run(f"ls {node}/msi_irqs").split()) == VECTORS["shared8"]
    run_during_load(world, device, f"""
        for turn in 1 2 3 4 5 6 7 8; do
            for irq in $(ls {node}/msi_irqs); do
                echo $((turn % 4)) >/proc/irq/$irq/smp_affinity_list || exit 1
            done
            sleep 0.3
        done""")
    counts = world.vm.run("grep virtio.*-virtqueues /proc/interrupts").split()[1:5]
    assert all(int(count) > 0 for count in counts), counts


def loaded(devices):
    """A script that starts a load on each disk and returns when all have done something.  (A fio that
    starts when its disk has gone takes it for a file, and would unlink the next one.)"""
    script = "rm -f /tmp/loads\n"
    for device in devices:
        script += (f"fio --name=load --filename={device} --allow_file_create=0 --ioengine=libaio "
                   "--rw=randrw --bs=4k --iodepth=32 --direct=1 --size=16m --time_based "
                   "--runtime=60 >/dev/null 2>&1 & echo $! >>/tmp/loads\n")
    for device in devices:
        script += ("until awk '$5 > 50 { busy = 1 } END { exit !busy }' "
                   f"/sys/block/{device[5:]}/stat; do sleep 0.1; done\n")
    return script


def test_hot_plug_under_load(world):
    """If this fails, the end of a client leaves something behind, or an interrupt line sticks."""
    disks = [PciDisk(world.socket(name), name=name) for name in LINES]
    for turn in range(HOT_PLUGS[world.memory] // len(disks)):
        before = world.vm.disks()
        for disk in disks:
            world.vm.plug(disk)
        wait_until(lambda: len(world.vm.disks() - before) == len(disks), 60, "the new disks")
        devices = [world.device(disk.name)[0] for disk in disks]
        if turn % 5 == 0:
            read_back(world, devices[0])
        world.vm.run(loaded(devices))
        world.vm.detach(*disks)
        world.vm.run("for load in $(cat /tmp/loads); do "
                     "while kill -0 $load 2>/dev/null; do sleep 0.1; done; done")
    world.vm.run("dmesg --clear")  # the loads were bound to see errors


def test_masked_function(world):
    """If this fails, what happens while a function's vectors are masked is lost for the guest."""
    device, function = world.device("packed8")
    run_during_load(world, device, f"""
        for turn in 1 2 3 4 5 6 7 8; do
            setpci -s {function} CAP_MSIX+2.W=4000:4000 && sleep 0.2 || exit 1
            setpci -s {function} CAP_MSIX+2.W=0:4000 && sleep 0.1 || exit 1
        done""")


@pytest.mark.parametrize("name", ["split8", "packed1"])
def test_driver_lets_go_and_comes_back(world, name):
    """If this fails, a guest cannot unload its driver, or reset the function, and go on."""
    device, function = world.device(name)
    node = f"/sys/bus/pci/devices/{function}"
    for between in ("true", f"echo 1 >{node}/reset"):
        world.vm.run(f"""set -e
            echo {function} >/sys/bus/pci/drivers/virtio-pci/unbind
            {between}
            echo {function} >/sys/bus/pci/drivers/virtio-pci/bind
            for try in 1 2 3 4 5 6 7 8 9 10; do
                grep -qx {name} /sys/block/vd*/serial && exit 0
                sleep 0.3
            done
            exit 1""")
        device, _ = world.device(name)
        read_back(world, device)


@pytest.mark.parametrize("name", ["split1", "packed8"])
def test_resize_reaches_the_guest(world, name):
    """If this fails, a change of the device's configuration does not interrupt the guest."""
    device, _ = world.device(name)
    image = world.directory / f"{name}.img"
    size = image.stat().st_size + (16 << 20)
    os.truncate(image, size)
    world.outboard.signal(signal.SIGHUP)
    wait_until(lambda: int(world.vm.run(f"blockdev --getsize64 {device}")) == size, 20,
               "the new size in the guest")
    world.vm.run(f"dd if=/dev/urandom of={device} bs=1M seek={(size >> 20) - 1} count=1 "
                 "oflag=direct status=none")


def test_lspci_has_nothing_to_say(world):
    """If this fails, the guest's tools find the function's registers contradictory."""
    _, function = world.device("split8")
    text = world.vm.run(f"lspci -vv -s {function} 2>&1")
    # What no lspci, or not this one, has a name for: a vendor's own extended capability (the card
    # and the function's index), and virtio's window to its registers.
    text = re.sub(r"Vendor Specific Information: ID=\w+ Rev=\w+ Len=\w+ <\?>", "", text)
    text = text.replace("VirtIO: <unknown>", "", 1)
    for word in ("SCSI storage controller", "MSI-X: Enable+", "Advanced Error Reporting",
                 "Device Serial Number", "Power Management", "VirtIO: CommonCfg"):
        assert word in text, text
    for word in ("downgraded", "access denied", "!!!", "<?>", "rev ff", "broken", "unknown"):
        assert word not in text.lower(), text


def test_reboot_under_load(world):
    """If this fails, a guest that restarts with requests in flight finds no disk."""
    device, _ = world.device("packed8")
    world.vm.run(f"( {fio.verifying(device, 30)} ) >/run/load 2>&1 & sleep 2")
    world.vm.reset()
    for name in FUNCTIONS:
        read_back(world, world.device(name)[0])


@pytest.mark.parametrize("world", ["shared"], indirect=True)
def test_kexec_under_load(world):
    """If this fails, a kernel that another one started without a reset of the machine has no disk."""
    device, _ = world.device("split8")
    world.vm.run(f"( {fio.verifying(device, 30)} ) >/run/load 2>&1 & sleep 2")
    world.vm.run("kexec -l /boot/vmlinuz-* --initrd=$(echo /boot/initrd.img-*) --reuse-cmdline && "
                 "( sleep 0.2; kexec -e ) >/dev/null 2>&1 &")
    world.vm.wait_ready()
    for name in FUNCTIONS:
        read_back(world, world.device(name)[0])
