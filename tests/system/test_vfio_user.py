"""A PCI function over vfio-user in a real guest, with memory that Outboard maps and with memory
that it reaches by messages alone."""
import hashlib

import pytest

from bed import PciDisk, fio

pytestmark = pytest.mark.vm

SECONDS = 6


def plug(bed, *options, queues=4, disk=None):
    """A disk of this test's own; the guest's name for it, and for its function."""
    outboard = bed.outboard(disk or f"memory:?size={fio.DISK_MEGABYTES}M", "--queues", str(queues),
                            *options, transport="vfio-user")
    device = bed.plug(PciDisk(outboard.socket))
    path = bed.vm.run(f"readlink -f /sys/block/{device[5:]}/device").strip()
    return device, path.split("/")[-2]


def read_back(bed, device):
    """Something written and read again past the page cache: the function does work."""
    bed.vm.run(f"""set -e
        dd if=/dev/urandom of=/run/pattern bs=64k count=16 status=none
        dd if=/run/pattern of={device} bs=64k oflag=direct status=none
        dd if={device} bs=64k count=16 iflag=direct status=none | cmp - /run/pattern""")


@pytest.mark.parametrize("packed", ["on", "off"])
@pytest.mark.parametrize("queues", [1, 8])
def test_verify(pci_bed, queues, packed):
    """If this fails, requests over a PCI function get lost, torn or mixed up."""
    image = pci_bed.image("disk.img", fio.DISK_MEGABYTES)
    device, function = plug(pci_bed, "--packed", packed, queues=queues, disk=f"file:{image}")
    features = pci_bed.vm.run(f"cat /sys/bus/pci/devices/{function}/virtio*/features").strip()
    assert features[34] == ("1" if packed == "on" else "0")
    pci_bed.vm.run(fio.verifying(device, SECONDS), timeout=120)
    theirs = pci_bed.vm.run(fio.digest(device), timeout=120).strip()
    with open(image, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == theirs


def test_interrupts_move_between_processors(pci_bed):
    """If this fails, an interrupt is lost while its vector is masked, and the guest waits."""
    device, function = plug(pci_bed)
    job = pci_bed.vm.start_job(fio.verifying(device, SECONDS))
    pci_bed.vm.run(f"""
        for turn in 1 2 3 4 5 6 7 8; do
            for irq in $(ls /sys/bus/pci/devices/{function}/msi_irqs); do
                echo $((turn % 4)) >/proc/irq/$irq/smp_affinity_list 2>/dev/null
            done
            sleep 0.4
        done; true""")
    job.wait(120)


def test_driver_lets_go_and_comes_back(pci_bed):
    """If this fails, a guest cannot unload its driver, or reset the function, and go on."""
    device, function = plug(pci_bed)
    node = f"/sys/bus/pci/devices/{function}"
    read_back(pci_bed, device)
    for between in ("true", f"echo 1 >{node}/reset"):
        driver = pci_bed.vm.run(f"basename $(readlink {node}/driver)").strip()
        pci_bed.vm.run(f"""set -e
            echo {function} >/sys/bus/pci/drivers/{driver}/unbind
            {between}
            echo {function} >/sys/bus/pci/drivers/{driver}/bind
            udevadm settle 2>/dev/null || sleep 1
            for try in 1 2 3 4 5 6 7 8 9 10; do [ -b {device} ] && break; sleep 0.3; done
            [ -b {device} ]""")
        read_back(pci_bed, device)


def test_plug_and_unplug_under_load(pci_bed):
    """If this fails, a function that comes or goes disturbs its neighbour, or leaves something."""
    device, _ = plug(pci_bed)
    job = pci_bed.vm.start_job(fio.verifying(device, 3 * SECONDS))
    outboard = pci_bed.outboard("memory:?size=16M", name="guest2", transport="vfio-user")
    for turn in range(6):
        disk = PciDisk(outboard.socket, name=f"second{turn}")
        name = pci_bed.plug(disk)
        read_back(pci_bed, name)
        pci_bed.unplug(disk)
    job.wait(120)


def test_lspci_has_nothing_to_say(pci_bed):
    """If this fails, the guest's tools find the function's registers contradictory."""
    _, function = plug(pci_bed)
    text = pci_bed.vm.run(f"lspci -vv -s {function} 2>&1")
    for word in ("Mass storage", "SCSI", "MSI-X: Enable+", "Advanced Error Reporting",
                 "Device Serial Number", "Power Management", "VirtIO: CommonCfg"):
        assert word in text, text
    for word in ("downgraded", "access denied", "!!!", "<?>", "rev ff", "broken", "unknown"):
        assert word not in text.lower(), text
