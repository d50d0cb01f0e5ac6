"""Sudden deaths under load: of Outboard, and of the server behind it."""
import time

import pytest

from bed import Disk, Outboard, QemuNbdServer, fio

pytestmark = pytest.mark.vm
KILLS = 20


def restart_under_load(bed, outboards, devices, seconds):
    """Kills and restarts them at random moments; the load must see none of it."""
    job = bed.vm.start_job(fio.verifying_all(devices, seconds))
    time.sleep(2)
    for _ in range(KILLS):
        time.sleep(bed.random.uniform(0.2, 1.2))
        assert job.running(), "the load ended before the last kill: " + job.wait(check=False)
        for outboard in outboards:
            outboard.restart()
        time.sleep(1)
    job.wait(timeout=seconds + 60)


def digests_agree(bed, device, image):
    guest = bed.vm.run(fio.digest(device), timeout=120).strip()
    host = bed.digest(image)
    return guest == host


def plug_ring(bed, kind):
    """The disk of that name, with that kind of ring."""
    device = bed.plug(Disk(bed.path(kind), name=kind,
                           options={"packed": "on" if kind == "packed" else "off"}))
    features = bed.vm.run(f"cat /sys/block/{device[5:]}/device/features").strip()
    assert features[34] == ("1" if kind == "packed" else "0")
    return device


def test_outboards_killed_twenty_times(bed):
    """If this fails, requests in flight at a crash are lost, or run again after later ones."""
    images = {kind: bed.image(f"{kind}.img", fio.DISK_MEGABYTES)
              for kind in ("split", "packed", "nbd")}
    # The delays let requests end in another order than they began in, many at a time under way:
    # without in-flight tracking, the used ring alone would not tell which of them are to be done.
    files = bed.start(Outboard(bed.directory, config={"devices": [
        {"type": "blk", "name": kind, "socket-path": bed.path(kind), "queues": 4,
         "disk": f"delay+file:{images[kind]}?time=1ms&jitter=20ms"}
        for kind in ("split", "packed")]}))
    # This server still holds requests of the process that died.
    server = bed.start(QemuNbdServer(bed.directory, images["nbd"]))
    remote = bed.outboard(server.uri, "--queues", "4", name="nbd", socket=bed.path("nbd"))
    devices = {kind: plug_ring(bed, kind) for kind in images}
    restart_under_load(bed, [files, remote], devices.values(), 75)
    for kind, image in images.items():
        assert digests_agree(bed, devices[kind], image), kind


def test_nbd_server_killed_under_load(bed):
    """If this fails, a server's restart reaches the guest as an I/O error or as lost requests."""
    image = bed.image("disk.img", fio.DISK_MEGABYTES)
    server = bed.nbd("file", image)
    outboard = bed.outboard(server.uri, "--queues", "4")
    device = bed.plug(Disk(outboard.socket))
    job = bed.vm.start_job(fio.verifying(device, 30))
    for pause in (0, 0.1, 0.5, 1, 2, 4):
        time.sleep(bed.random.uniform(1, 2))
        server.kill()
        time.sleep(pause)
        server.start()
    assert job.running(), "the load ended too early: " + job.wait(check=False)
    job.wait(timeout=90)
    assert digests_agree(bed, device, image)
