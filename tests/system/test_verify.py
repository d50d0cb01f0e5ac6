"""Verifying loads over each backend, and what the server holds afterwards."""
import pytest

from bed import Disk, fio

pytestmark = pytest.mark.vm
SECONDS = 60


def load(bed, *uris):
    """Runs the load on disks; returns their checksums as the guest reads them."""
    devices = []
    for number, uri in enumerate(uris):
        outboard = bed.outboard(uri, "--queues", "4", name=f"outboard{number}")
        devices.append(bed.plug(Disk(outboard.socket, name=f"disk{number}")))
    bed.vm.run(fio.verifying_all(devices, SECONDS), timeout=SECONDS + 60)
    digests = [bed.vm.run(fio.digest(device), timeout=120).strip() for device in devices]
    bed.vm.run(f"blockdev --flushbufs {' '.join(devices)}")
    return digests


def test_files(bed):
    """If this fails, the file provider loses, tears or misplaces writes or discards."""
    buffered = bed.image("buffered.img", fio.DISK_MEGABYTES)
    direct = bed.image("direct.img", fio.DISK_MEGABYTES)
    assert load(bed, f"file:{buffered}", f"file:{direct}?direct=on") == \
        [bed.digest(buffered), bed.digest(direct)]


def test_memory_and_nbd(bed):
    """If the first fails, the virtqueue or the device mixes requests up; if only the second does,
    the NBD provider: the server's side is read by another client."""
    server = bed.nbd("file", bed.image("disk.img", fio.DISK_MEGABYTES))
    _, digest = load(bed, f"memory:?size={fio.DISK_MEGABYTES}M", server.uri)
    server.copy_to(bed.path("copy.img"))
    assert digest == bed.digest(bed.path("copy.img"))
