"""Whole machines on PCI functions over vfio-user: booted by their firmware, several on one process."""
import pytest

from bed import (Outboard, PciDisk, VirtualMachine, fio, make_boot_disk, vfio_user_qemu,
                 wait_until)
from conftest import TROUBLE

pytestmark = pytest.mark.vm

FUNCTIONS = 8


def configuration(directory, card, disks):
    """One card with a function per disk."""
    return [{"type": "blk", "name": f"{card}-{name}", "serial": name, "card": card,
             "vfio-user": str(directory / f"{card}-{name}.sock"), "disk": disk}
            for name, disk in disks.items()]


@pytest.mark.parametrize("firmware, memory", [("seabios", "private"), ("ovmf", "shared")])
def test_boot_by_firmware(directory, guest, firmware, memory):
    """If this fails, firmware cannot read the boot loader, or the loader the kernel, by itself."""
    disks = {"boot": f"file:{make_boot_disk(guest, directory / 'boot.img')}",
             "root": f"file:{guest.copy_disk(directory / 'root.img')}"}
    config = {"devices": configuration(directory, "card", disks)}
    with Outboard(directory, config=config) as outboard:
        boot, root = outboard.sockets
        vm = VirtualMachine(
            directory, guest, root=PciDisk(root, name="root"), qemu=vfio_user_qemu(),
            shared=memory == "shared", boots_by=firmware,
            disks=[PciDisk(boot, name="boot", options={"bootindex": 0})])
        with vm:
            vm.wait_ready()
            assert vm.run("test -d /sys/firmware/efi && echo ovmf || echo seabios").strip() == \
                firmware
            assert vm.run("findmnt -n -o SOURCE,FSTYPE /").split() == ["/dev/vda", "ext4"]
            vm.power_off()


def test_doorbell_page(directory, guest):
    """If this fails, notifications that a guest stores into a mapped page are not seen."""
    image = directory / "disk.img"
    with open(image, "wb") as file:
        file.truncate(fio.DISK_MEGABYTES << 20)
    with Outboard(directory, f"file:{image}", "--doorbell-page", "--stats",
                  transport="vfio-user") as outboard, \
            VirtualMachine(directory, guest, qemu=vfio_user_qemu(), cpus=2,
                           disks=[PciDisk(outboard.socket, name="disk")]) as vm:
        vm.wait_ready()
        commands = outboard.counters()["vfio_user", "vda"]["commands"]
        vm.run(fio.verifying("/dev/vdb", 4), timeout=120)
        counters = outboard.counters()
        assert counters["device", "vda"]["requests"] > 100
        assert counters["vfio_user", "vda"]["commands"] == commands  # no message per notification
        vm.run("sync")


class Machine:
    """A VM with a card of its own, of several functions; all cards are served by one process."""

    def __init__(self, directory, card):
        self.directory = directory
        self.card = card
        self.devices = configuration(directory, card, {
            f"disk{number}": f"file:{self.image(number)}" for number in range(FUNCTIONS)})

    def image(self, number):
        path = self.directory / f"{self.card}-{number}.img"
        with open(path, "wb") as image:
            image.truncate(fio.DISK_MEGABYTES << 20)
        return path

    def vm(self, guest, name):
        return VirtualMachine(self.directory, guest, name=name, qemu=vfio_user_qemu(), cpus=2,
                              disks=[PciDisk(device["vfio-user"], name=device["serial"])
                                     for device in self.devices])


def load(vm, seconds):
    """A script that writes and verifies on all the functions at once."""
    disks = vm.run("cd /sys/block; grep -lx 'disk[0-9]' vd*/serial").split()
    assert len(disks) == FUNCTIONS
    return fio.verifying_all([f"/dev/{disk.split('/')[0]}" for disk in disks], seconds)


def test_two_machines_of_eight_functions(directory, guest):
    """If this fails, functions of one process are mixed up, or a VM's sudden end harms another."""
    machines = [Machine(directory, card) for card in ("one", "two")]
    config = {"workers": 2, "devices": [device for m in machines for device in m.devices]}
    with Outboard(directory, config=config) as outboard, \
            machines[0].vm(guest, "first") as first:
        with machines[1].vm(guest, "second") as second:
            for vm in (first, second):
                vm.wait_ready()
            job = first.start_job(load(first, 10))
            second.start_job(load(second, 120))
            wait_until(lambda: outboard.counters()["blk", "two-disk7"].get("writes", 0) > 100, 120,
                       "load on the last function")
            second.kill()
        with machines[1].vm(guest, "third") as third:
            third.wait_ready()
            third.run(load(third, 2), timeout=240)
            job.wait(240)
            for vm in (first, third):
                assert not TROUBLE.search(vm.run("dmesg"))
