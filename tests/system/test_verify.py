"""Verifying loads over each backend, and what the server holds afterwards."""
import pytest

from bed import Disk, fio

pytestmark = pytest.mark.vm
SECONDS = 60


def load(bed, uri):
    """Runs the load on a disk; returns the disk's checksum as the guest reads it."""
    outboard = bed.outboard(uri, "--queues", "4")
    device = bed.plug(Disk(outboard.socket))
    bed.vm.run(fio.verifying(device, SECONDS), timeout=SECONDS + 60)
    digest = bed.vm.run(fio.digest(device), timeout=120).strip()
    bed.vm.run(f"blockdev --flushbufs {device}")
    return digest


def test_memory(bed):
    """If this fails, the virtqueue or the device mixes requests up."""
    load(bed, f"memory:?size={fio.DISK_MEGABYTES}M")


@pytest.mark.parametrize("options", ["", "?direct=on"], ids=["buffered", "direct"])
def test_file(bed, options):
    """If this fails, the file provider loses, tears or misplaces writes or discards."""
    image = bed.image("disk.img", fio.DISK_MEGABYTES)
    assert load(bed, f"file:{image}{options}") == bed.digest(image)


def test_nbd(bed):
    """If this fails, the NBD provider does; the server's side is read by another client."""
    server = bed.nbd("file", bed.image("disk.img", fio.DISK_MEGABYTES))
    digest = load(bed, server.uri)
    server.copy_to(bed.path("copy.img"))
    assert digest == bed.digest(bed.path("copy.img"))
