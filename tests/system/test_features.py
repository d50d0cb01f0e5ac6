"""What the guest sees of the disk's properties."""
import os
import signal

import pytest

from bed import Disk, Sums, wait_until

pytestmark = pytest.mark.vm


def attribute(bed, device, name):
    return bed.vm.run(f"cat /sys/block/{device[5:]}/{name}").strip()


def size_of(bed, device):
    return int(bed.vm.run(f"blockdev --getsize64 {device}"))


def test_resize_reaches_the_guest(bed):
    """If this fails, a disk that grew stays small until the VM is restarted."""
    image = bed.image("disk.img", 64)
    outboard = bed.outboard(f"file:{image}", "--queues", "2")
    device = bed.plug(Disk(outboard.socket, queues=2))
    assert size_of(bed, device) == 64 << 20
    os.truncate(image, 96 << 20)
    outboard.signal(signal.SIGHUP)
    wait_until(lambda: size_of(bed, device) == 96 << 20, 20, "the new size in the guest")
    bed.vm.run(f"dd if=/dev/urandom of={device} bs=1M seek=95 count=1 oflag=direct")


def test_features_can_be_left_out(bed):
    """If this fails, a guest is offered what the back-end that it may move to does not have."""
    outboard = bed.outboard("memory:?size=16M", "--features=-discard,-event_idx", "--queues", "2")
    device = bed.plug(Disk(outboard.socket, queues=2))
    assert attribute(bed, device, "queue/discard_max_bytes") == "0"
    assert int(attribute(bed, device, "queue/write_zeroes_max_bytes")) > 0
    features = bed.vm.run(f"cat /sys/block/{device[5:]}/device/features").strip()
    assert features[13] + features[14] + features[29] == "010"
    bed.vm.run(f"dd if=/dev/urandom of={device} bs=64k count=16 oflag=direct")


def test_read_only(bed):
    """If this fails, a guest can write to a disk that was given to it read-only."""
    image = bed.image("disk.img", 16)
    outboard = bed.outboard(f"file:{image}", "--read-only", "--queues", "2")
    device = bed.plug(Disk(outboard.socket, queues=2))
    assert attribute(bed, device, "ro") == "1"
    bed.vm.run(f"dd if={device} of=/dev/null bs=1M iflag=direct")
    bed.vm.run(f"! dd if=/dev/urandom of={device} bs=4k count=1 oflag=direct 2>/dev/null")
    with open(image, "rb") as disk:
        assert not any(disk.read())


def test_serial(bed):
    """If this fails, /dev/disk/by-id names in guests break."""
    outboard = bed.outboard("memory:?size=16M", "--serial", "sixteen-20-bytes-abc")
    device = bed.plug(Disk(outboard.socket, queues=1))
    assert attribute(bed, device, "serial") == "sixteen-20-bytes-abc"


def test_block_size(bed):
    """If this fails, a disk with 4 KiB blocks is offered, or accessed, as one with 512 bytes."""
    outboard = bed.outboard("memory:?size=16M", "--block-size", "4096")
    device = bed.plug(Disk(outboard.socket, queues=1))
    assert attribute(bed, device, "queue/logical_block_size") == "4096"
    bed.vm.run(f"! dd if=/dev/zero of={device} bs=512 count=1 oflag=direct 2>/dev/null\n"
               f"dd if=/dev/zero of={device} bs=4k count=1 oflag=direct")


def test_discard_and_write_zeroes(bed):
    """If this fails, freed space never goes back to the server, or zeroing damages data."""
    image = bed.image("disk.img", 64)
    outboard = bed.outboard(f"file:{image}", "--queues", "2")
    device = bed.plug(Disk(outboard.socket, queues=2))
    assert int(attribute(bed, device, "queue/discard_max_bytes")) > 0
    assert int(attribute(bed, device, "queue/write_zeroes_max_bytes")) > 0
    bed.vm.run(f"dd if=/dev/urandom of={device} bs=1M count=64 oflag=direct")
    before = os.stat(image).st_blocks
    bed.vm.run(f"blkdiscard -o 0 -l 16M {device}; blkdiscard -z -o 32M -l 16M {device}")
    assert os.stat(image).st_blocks <= before - (15 << 20) // 512
    bed.vm.run(f"dd if={device} bs=1M skip=32 count=16 iflag=direct | cmp -n 16777216 - /dev/zero")
    with open(image, "rb") as disk:
        disk.seek(16 << 20)
        assert any(disk.read(16 << 20))


def test_cache_mode_can_be_switched(bed):
    """If this fails, a guest that asks for write-through is promised what it does not get."""
    image = bed.image("disk.img", 16)
    outboard = bed.outboard(f"file:{image}", "--queues", "2")
    device = bed.plug(Disk(outboard.socket, queues=2, options={"config-wce": "on"}))
    for mode in ("write back", "write through", "write back"):
        bed.vm.run(f"echo {mode} >/sys/block/{device[5:]}/cache_type")
        assert attribute(bed, device, "cache_type") == mode
        before = Sums(outboard.counters(), "vda").get("blk", "flushes")
        bed.vm.run(f"dd if=/dev/urandom of={device} bs=64k count=16 oflag=direct conv=fsync")
        flushes = Sums(outboard.counters(), "vda").get("blk", "flushes") - before
        assert (flushes > 0) == (mode == "write back")


@pytest.mark.io_errors
def test_full_disk(bed):
    """If this fails, a backend without space takes the process down, or the guest never learns."""
    # The file lies on a tmpfs of 16 MiB, in a mount namespace of Outboard's own.
    mount = bed.directory / "small"
    mount.mkdir()
    in_namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh",
                    "-c", f"mount -t tmpfs -o size=16m none {mount} && "
                    f"truncate -s 64M {mount}/disk && exec \"$@\"", "sh"]
    outboard = bed.outboard(f"file:{mount}/disk", "--queues", "2", prefix=in_namespace)
    device = bed.plug(Disk(outboard.socket, queues=2))
    bed.vm.run(f"dd if=/dev/urandom of=/tmp/data bs=1M count=8 status=none\n"
               f"dd if=/tmp/data of={device} bs=1M oflag=direct status=none")
    bed.vm.run(f"! dd if=/dev/urandom of={device} bs=1M seek=8 count=32 oflag=direct")
    outboard.check_running()
    bed.vm.run(f"dd if={device} bs=1M count=8 iflag=direct status=none | cmp - /tmp/data\n"
               f"blkdiscard -o 8M -l 56M {device}\n"
               f"dd if=/tmp/data of={device} bs=1M seek=32 count=4 oflag=direct status=none")


def test_two_disks_of_one_process(bed):
    """If this fails, devices of one configuration file get into each other's way."""
    images = [bed.image("first.img", 32), bed.image("second.img", 48)]
    outboard = bed.outboard(None, config={"devices": [
        {"type": "blk", "name": name, "socket-path": bed.path(f"{name}.sock"),
         "disk": f"file:{image}", "queues": 2, "serial": name}
        for name, image in zip(("first", "second"), images)]})
    devices = [bed.plug(Disk(socket, name=name, queues=2))
               for name, socket in zip(("first", "second"), outboard.sockets)]
    assert [attribute(bed, device, "serial") for device in devices] == ["first", "second"]
    assert [size_of(bed, device) for device in devices] == [32 << 20, 48 << 20]
    bed.vm.run(f"for disk in {' '.join(devices)}; do\n"
               "(dd if=/dev/urandom bs=1M count=32 status=none | tee /tmp/${disk##*/} |\n"
               " dd of=$disk bs=1M iflag=fullblock oflag=direct status=none) &\ndone; wait\n"
               f"for disk in {' '.join(devices)}; do\n"
               " dd if=$disk bs=1M count=32 iflag=direct status=none | cmp - /tmp/${disk##*/} ||\n"
               "  exit 1\ndone", timeout=120)
