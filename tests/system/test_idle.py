"""What an idle process costs."""
import time

import pytest

from bed import Disk, cpu_ticks, fio

pytestmark = pytest.mark.vm
SECONDS = 10


def wait_for_quiet(pids):
    """A slow guest still looks at its disk for a while; what never falls silent is measured so."""
    for _ in range(10):
        before = [cpu_ticks(pid) for pid in pids]
        time.sleep(2)
        if all(cpu_ticks(pid) - then < 1 for pid, then in zip(pids, before)):
            break


def test_no_cpu_time_with_a_connected_idle_guest(bed):
    """If this fails, something polls: a burnt core per idle VM."""
    uris = {"memory": f"memory:?size={fio.DISK_MEGABYTES}M",
            "file": "file:" + bed.image("disk.img", fio.DISK_MEGABYTES),
            "nbd": bed.nbd("memory", "512M").uri}
    pids = {}
    for kind, uri in uris.items():
        outboard = bed.outboard(uri, "--queues", "4", "--workers", "2", name=f"for-{kind}")
        device = bed.plug(Disk(outboard.socket, name=kind))
        bed.vm.run(fio.verifying(device, 2))    # every queue has been busy once
        pids[kind] = outboard.pid
        assert cpu_ticks(outboard.pid) > 1
    wait_for_quiet(list(pids.values()))
    before = {kind: cpu_ticks(pid) for kind, pid in pids.items()}
    time.sleep(SECONDS)
    spent = {kind: cpu_ticks(pid) - before[kind] for kind, pid in pids.items()}
    assert all(ticks < 1 for ticks in spent.values()), spent
