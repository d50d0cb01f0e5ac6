"""A Debian whose root file system lies on an NBD server."""
import subprocess
import time

import pytest

from bed import QEMU, Disk, NbdServer, Outboard, VirtualMachine, vfio_user_qemu

pytestmark = pytest.mark.vm


@pytest.fixture(name="root")
def root_fixture(directory, guest):
    """A copy of the guest's image behind nbdkit, with Outboard before it."""
    image = guest.copy_disk(directory / "root.img")
    with NbdServer(directory, "file", image) as server, \
            Outboard(directory, server.uri, "--queues", "4") as outboard:
        yield server, outboard


def boot(directory, guest, outboard, **options):
    qemu = options.get("qemu", QEMU)
    vm = VirtualMachine(directory, guest, root=Disk(outboard.socket, qemu=qemu), **options)
    return vm.boot()


def assert_clean_on_server(server, directory):
    """Read by another client, checked by e2fsck: nothing of the guest or Outboard is involved."""
    copy = directory / "copy.img"
    server.copy_to(copy)
    check = subprocess.run(["e2fsck", "-f", "-n", copy], capture_output=True, text=True,
                           check=False)
    assert check.returncode == 0, check.stdout
    return copy


def read_from_image(image, path):
    return subprocess.run(["debugfs", "-R", f"cat {path}", image], check=True,
                          capture_output=True).stdout.decode()


def test_second_boot_sees_what_the_first_wrote(directory, guest, root):
    """If this fails, writes of a guest do not reach the server, or do not come back."""
    server, outboard = root
    vm = boot(directory, guest, outboard, name="first")
    assert vm.run("findmnt -n -o SOURCE,FSTYPE /").split() == ["/dev/vda", "ext4"]
    assert vm.run("ls /sys/block/vda/mq | wc -l").strip() == "4"
    vm.run("echo written by the first boot >/root/note; cp -r /usr/lib/systemd /root/copy; sync")
    vm.power_off()

    assert read_from_image(assert_clean_on_server(server, directory), "/root/note") == \
        "written by the first boot\n"

    vm = boot(directory, guest, outboard, name="second")
    assert vm.run("cat /root/note") == "written by the first boot\n"
    vm.run("diff -r /usr/lib/systemd /root/copy")
    vm.power_off()
    assert_clean_on_server(server, directory)


def test_reset_button_under_load(directory, guest, root):
    """If this fails, a reset leaves queues or the memory map in a state that no driver expects."""
    server, outboard = root
    # After a reset, QEMU 7.2 emulates three times as slowly as before, whatever its disks are.
    vm = boot(directory, guest, outboard, qemu=vfio_user_qemu())
    for number in range(5):
        vm.run(f"echo {number} >/root/count; sync")
        vm.start_job("fio --name=load --filename=/root/load --size=64M --rw=randwrite --bs=16k "
                     "--ioengine=libaio --iodepth=16 --direct=1 --time_based --runtime=60")
        time.sleep(1)
        vm.reset()
        assert vm.run("cat /root/count").strip() == str(number)
    vm.power_off()
    assert_clean_on_server(server, directory)
