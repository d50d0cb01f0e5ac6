"""Devices that come, go and change hands while the VM lives."""
import pytest

from bed import Disk, fio, wait_until

pytestmark = pytest.mark.vm
ROUNDS = 5
WRITE_AND_COMPARE = """
for attempt in $(seq 100); do [ -b {device} ] && break; sleep 0.1; done
dd if=/dev/urandom of=/tmp/data bs=64k count=16 status=none
dd if=/tmp/data of={device} bs=64k oflag=direct status=none
dd if={device} bs=64k count=16 iflag=direct status=none | cmp - /tmp/data
"""
FIO_HAS_ENDED = """
for attempt in $(seq 60); do grep -qs fio /proc/[0-9]*/comm || exit 0; sleep 1; done; exit 1
"""


def test_hot_plug_and_unplug(bed):
    """If this fails, the end of a connection leaves something behind that harms the next one."""
    outboard = bed.outboard("memory:?size=64M", "--queues", "4")
    for number in range(ROUNDS):
        disk = Disk(outboard.socket, name=f"round{number}")
        device = bed.plug(disk)
        bed.vm.run(WRITE_AND_COMPARE.format(device=device))
        bed.unplug(disk)


def test_unplug_under_load(bed):
    """If this fails, queues go away while requests are in flight, and one is lost or hangs."""
    outboard = bed.outboard("memory:?size=256M", "--queues", "4")
    for number in range(ROUNDS):
        disk = Disk(outboard.socket, name=f"round{number}")
        device = bed.plug(disk)
        bed.vm.run(f"({fio.verifying(device, 60)}) >/dev/null 2>&1 &")
        wait_until(lambda: outboard.counters()["blk", "vda"].get("writes", 0) > 100 * number, 30,
                   "the load")
        bed.unplug(disk)
        bed.vm.run(FIO_HAS_ENDED, timeout=90)
    bed.vm.run("dmesg --clear")             # fio was bound to see errors


def test_driver_unbind_and_bind(bed):
    """If this fails, a device that was reset by its driver does not start again."""
    outboard = bed.outboard("memory:?size=64M", "--queues", "4")
    device = bed.plug(Disk(outboard.socket))
    pci = bed.vm.run(f"basename $(realpath /sys/block/{device[5:]}/device/..)").strip()
    for _ in range(ROUNDS):
        bed.vm.run(f"echo {pci} >/sys/bus/pci/drivers/virtio-pci/unbind\n"
                   f"[ ! -e {device} ] || exit 1\n"
                   f"echo {pci} >/sys/bus/pci/drivers/virtio-pci/bind\n"
                   + WRITE_AND_COMPARE.format(device=device))


def test_queue_counts(bed):
    """If this fails, VMMs that use fewer queues than offered (or one) are not served."""
    outboard = bed.outboard("memory:?size=64M", "--queues", "4")
    for queues in (1, 2, 4):
        disk = Disk(outboard.socket, name=f"queues{queues}", queues=queues)
        device = bed.plug(disk)
        assert bed.vm.run(f"ls /sys/block/{device[5:]}/mq | wc -l").strip() == str(queues)
        bed.vm.run(WRITE_AND_COMPARE.format(device=device))
        bed.unplug(disk)


def test_large_and_small_rings(bed):
    """If this fails, ring sizes other than the usual 128 break the ring's arithmetic."""
    outboard = bed.outboard(f"memory:?size={fio.DISK_MEGABYTES}M", "--queues", "4",
                            "--queue-size", "1024")
    for size in (4, 64, 1024):
        disk = Disk(outboard.socket, name=f"size{size}", options={"queue-size": size})
        bed.vm.run(fio.verifying(bed.plug(disk), 3))
        bed.unplug(disk)


def test_client_mode(bed):
    """If this fails, Outboard cannot be the one that connects, or does not connect again."""
    socket = bed.path("qemu.sock")
    outboard = bed.outboard("memory:?size=64M", "--queues", "4", socket=socket, connect=True)
    disk = Disk(socket, server=True)
    device = bed.plug(disk)
    bed.vm.run(WRITE_AND_COMPARE.format(device=device))
    outboard.check_running()
    bed.unplug(disk)
    device = bed.plug(disk)
    bed.vm.run(WRITE_AND_COMPARE.format(device=device))
