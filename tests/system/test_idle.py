"""What an idle process costs."""
import time

import pytest

from bed import Disk, cpu_ticks, fio

pytestmark = pytest.mark.vm
SECONDS = 10


def wait_for_quiet(pid):
    """A slow guest still looks at its disk for a while; what never falls silent is measured so."""
    for _ in range(10):
        before = cpu_ticks(pid)
        time.sleep(2)
        if cpu_ticks(pid) == before:
            break


@pytest.mark.parametrize("kind", ["memory", "file", "nbd"])
def test_no_cpu_time_with_a_connected_idle_guest(bed, kind):
    """If this fails, something polls: a burnt core per idle VM."""
    uri = {"memory": lambda: f"memory:?size={fio.DISK_MEGABYTES}M",
           "file": lambda: "file:" + bed.image("disk.img", fio.DISK_MEGABYTES),
           "nbd": lambda: bed.nbd("memory", "512M").uri}[kind]()
    outboard = bed.outboard(uri, "--queues", "4", "--workers", "2")
    device = bed.plug(Disk(outboard.socket))
    bed.vm.run(fio.verifying(device, 2))    # every queue has been busy once
    assert cpu_ticks(outboard.pid) > 0
    wait_for_quiet(outboard.pid)
    before = cpu_ticks(outboard.pid)
    time.sleep(SECONDS)
    assert cpu_ticks(outboard.pid) - before == 0
