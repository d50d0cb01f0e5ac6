"""A guest behind a TAP interface, in a network namespace that stands for its host."""
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from bed import (Guest, Namespace, Nic, Outboard, PciDisk, VirtualMachine,
                 vfio_user_qemu, wait_until)
from conftest import quiet, running

pytestmark = pytest.mark.vm

MAC = "52:54:00:00:01:01"


class World:
    def __init__(self, how):
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        if not os.path.exists("/dev/net/tun"):
            pytest.skip("unavailable: no /dev/net/tun here")
        self.host = Namespace()
        transport = "vhost-user" if how == "vhost-user" else "vfio-user"
        self.outboard = Outboard(self.directory, None, "--mac", MAC, "--queues", "2", "--workers",
                                 "2", port="tap:guest", prefix=self.host.prefix,
                                 transport=transport)
        device = PciDisk(self.outboard.socket, name="net0") if how != "vhost-user" else \
            Nic(self.outboard.socket, queues=2, options={"mac": MAC})
        self.vm = VirtualMachine(self.directory, Guest.make(), qemu=vfio_user_qemu(),
                                 disks=[device])

    def set_link(self, up):
        """A vhost-user device cannot tell its link's state: that is the VMM's to set there."""
        if self.outboard.transport == "vhost-user":
            self.vm.qmp.execute("set_link", name="net0", up=up)
        else:
            self.host.run("ip", "link", "set", "guest", "up" if up else "down")

    def start(self):
        self.outboard.start()
        self.host.run("ip", "addr", "add", "10.8.0.1/24", "dev", "guest")
        self.host.run("ip", "addr", "add", "fd08::1/64", "dev", "guest", "nodad")
        self.vm.boot()
        self.vm.run("modprobe virtio_net; sleep 0.5; ip link set eth0 up; "
                    "ip addr add 10.8.0.2/24 dev eth0; ip addr add fd08::2/64 dev eth0 nodad")
        return self

    def end(self):
        if self.vm.running:
            self.vm.kill()
        self.vm.stop()
        self.outboard.stop()
        self.host.end()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module", name="world", params=["vhost-user", "vfio-user"])
def world_fixture(request):
    with running(World, request.param) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernel(world):
    with quiet(world.vm):
        yield


def ping(world, *sizes):
    for size in sizes:
        world.vm.run(f"ping -q -c 2 -i 0.1 -W 5 -M do -s {size - 42} 10.8.0.1")
        world.host.run("ping", "-q", "-c", "2", "-i", "0.1", "-W", "5", "-M", "do", "-s",
                       str(size - 42), "10.8.0.2")


def test_every_size(world):
    """If this fails, frames of some size are cut, padded or lost."""
    ping(world, 42, 59, 60, 61, 127, 1024, 1514)
    world.vm.run("ping -q -c 2 -W 5 fd08::1")
    world.host.run("ip", "link", "set", "guest", "mtu", "9000")
    world.vm.run("ip link set eth0 mtu 9000")
    ping(world, 1515, 4096, 9014)
    world.host.run("ip", "link", "set", "guest", "mtu", "1500")
    world.vm.run("ip link set eth0 mtu 1500")


@pytest.mark.parametrize("offloads", ["on", "off"])
def test_streams_both_ways(world, offloads):
    """If this fails, a checksum or a segment is left to somebody who does not do it."""
    world.vm.run(f"ethtool -K eth0 tx {offloads} tso {offloads} gso {offloads} gro {offloads} "
                 "2>/dev/null; true")
    for options in ([], ["-R"], ["-6", "-R"], ["-u", "-b", "20M"], ["-u", "-b", "20M", "-R"]):
        target = "fd08::2" if "-6" in options else "10.8.0.2"
        # A server of its own for each: between two streams, one is deaf for a moment.
        world.vm.run("iperf3 -s -1 -D --logfile /run/iperf3.log\n"
                     "until ss -ltn | grep -q :5201; do sleep 0.1; done")
        assert "receiver" in world.host.run("iperf3", "-c", target, "-t", "1", *options)


def test_link_goes_and_comes_back(world):
    """If this fails, the guest does not see that its host has set the interface down."""
    for up in (False, True, False, True):
        world.set_link(up)
        wait_until(lambda wanted=str(int(up)):
                   world.vm.run("cat /sys/class/net/eth0/carrier").strip() == wanted,
                   10, f"the guest's link to be {'up' if up else 'down'}")
    world.host.run("ip", "addr", "replace", "fd08::1/64", "dev", "guest", "nodad")
    ping(world, 64)
