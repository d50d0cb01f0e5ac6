"""Three hosts on a wire, each a network namespace: two have a guest behind Outboard's vxlan:, the
third has the kernel's vxlan device.  Segment 7 is among static peers over IPv4, segment 8 in a
multicast group over IPv6.  One guest is QEMU's own release's over vhost-user, one over vfio-user."""
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from bed import (QEMU, Guest, Namespace, Nic, Outboard, PciDisk, Process,
                 VirtualMachine, vfio_user_qemu, wait_until)
from conftest import quiet, running

pytestmark = pytest.mark.vm

OUTER_MTU, INNER_MTU = 9100, 9000
GROUP = "ff05::77"


class Wire:
    """A bridge that every host is on."""

    def __init__(self):
        self.space = Namespace("wire")
        self.space.ip("link add wire type bridge", f"link set wire mtu {OUTER_MTU} up")

    def add(self, host, number):
        self.space.ip(f"link add to{number} mtu {OUTER_MTU} type veth peer name eth0 "
                      f"mtu {OUTER_MTU} netns {host.name}",
                      f"link set to{number} master wire up")
        host.ip(f"addr add 10.77.0.{number}/24 dev eth0", f"addr add fd77::{number}/64 dev eth0 nodad",
                "link set eth0 up", "-6 route add ff00::/8 dev eth0 table local")


class GuestHost:
    """A guest with a function in each segment, and the host that it is on."""

    def __init__(self, directory, number, transport):
        self.space = Namespace(f"host{number}")
        self.number = number
        peers = ",".join(f"10.77.0.{peer}" for peer in (1, 2, 3) if peer != number)
        ports = {"seven": f"vxlan://{peers}?vni=7&mtu={INNER_MTU}",
                 "eight": f"vxlan://[{GROUP}]?vni=8&device=eth0&mtu={INNER_MTU}"}
        place = "socket-path" if transport == "vhost-user" else "vfio-user"
        sockets = {name: str(directory / f"{number}-{name}.sock") for name in ports}
        macs = {name: f"52:54:00:00:0{number}:0{i}" for i, name in enumerate(ports)}
        self.macs = macs
        self.outboard = Outboard(
            directory, name=f"outboard{number}", prefix=self.space.prefix,
            config={"devices": [{"type": "net", "name": name, "port": uri, "mac": macs[name],
                                 place: sockets[name]} for name, uri in ports.items()]})
        # QEMU 7.2 without KVM loses a vhost-user device's MSI-X interrupts.
        devices = [PciDisk(sockets[name], name=name) if transport == "vfio-user" else
                   Nic(sockets[name], name=name, options={"mac": macs[name], "vectors": 0})
                   for name in ports]
        # Nor do two processors and interrupt lines always get along there.
        self.vm = VirtualMachine(directory, Guest.make(), name=f"vm{number}", disks=devices,
                                 cpus=2 if transport == "vfio-user" else 1,
                                 qemu=vfio_user_qemu() if transport == "vfio-user" else QEMU)

    def start(self):
        self.outboard.start()
        self.vm.start()

    def set_up(self):
        self.vm.wait_ready()
        self.vm.run("modprobe virtio_net; udevadm settle 2>/dev/null; ip link set lo up")
        for name, net in (("seven", 7), ("eight", 8)):
            self.vm.run(f"""
                for link in /sys/class/net/*; do
                    [ "$(cat $link/address)" = {self.macs[name]} ] && old=${{link##*/}}
                done
                ip link set $old name {name} && ip link set {name} mtu {INNER_MTU} up
                ip addr add 10.{net}.0.{self.number}/24 dev {name}
                ip addr add fd0{net}::{self.number}/64 dev {name} nodad""")

    def run(self, script):
        return self.vm.run(script)

    def end(self):
        if self.vm.running:
            self.vm.kill()
        self.vm.stop()
        self.outboard.stop()
        self.space.end()


class KernelHost:
    """The kernel's vxlan device.  Between namespaces it leaves inner checksums and segmentation to a
    card that is not there; so these are switched off."""

    def __init__(self):
        self.space = Namespace("host3")

    def set_up(self):
        self.space.ip("link add seven type vxlan id 7 dstport 4789 local 10.77.0.3 dev eth0",
                      f"link add eight type vxlan id 8 dstport 4789 group {GROUP} dev eth0")
        for peer in (1, 2):
            self.space.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "seven", "dst",
                           f"10.77.0.{peer}")
        for name, net in (("seven", 7), ("eight", 8)):
            self.space.run("ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off")
            self.space.ip(f"link set {name} mtu {INNER_MTU} up", f"addr add 10.{net}.0.3/24 dev {name}",
                          f"addr add fd0{net}::3/64 dev {name} nodad")

    def run(self, script):
        return self.space.run("sh", "-c", script)

    def end(self):
        self.space.end()


class World:
    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        self.wire = Wire()
        self.guests = [GuestHost(self.directory, 1, "vfio-user"),
                       GuestHost(self.directory, 2, "vhost-user")]
        self.kernel = KernelHost()
        self.hosts = [*self.guests, self.kernel]

    def start(self):
        for number, host in enumerate(self.hosts, 1):
            self.wire.add(host.space, number)
        for guest in self.guests:
            guest.start()
        for host in self.hosts:
            host.set_up()
        return self

    def end(self):
        for host in self.hosts:
            host.end()
        self.wire.space.end()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module", name="world")
def world_fixture():
    with running(World) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernels(world):
    with quiet(*(guest.vm for guest in world.guests)):
        yield


def ping(host, address, *sizes):
    """Whole frames of these sizes, header included, each answered in full."""
    host.run(" && ".join(f"ping -q -c 2 -i 0.1 -W 5 -M do -s {size - 42} {address}"
                         for size in sizes))


def stream(server, client, address, options="", much="-t 1"):
    server.run("iperf3 -s -1 -D --logfile /dev/null\n"
               "until ss -ltn | grep -q :5201; do sleep 0.1; done")
    assert "receiver" in client.run(f"iperf3 -c {address} {much} {options}")


def test_every_size(world):
    """If this fails, frames of some size are cut, padded or lost on their way."""
    first, second = world.guests
    sizes = (42, 59, 60, 61, 127, 1024, 1514, 1515, 4096, 8999, 9014)
    ping(first, "10.7.0.2", *sizes)
    ping(first, "10.7.0.3", *sizes)
    ping(world.kernel, "10.7.0.2", *sizes)
    second.run("ping -q -c 2 -W 5 fd07::1 && ping -q -c 2 -W 5 fd07::3")


@pytest.mark.parametrize("offloads", ["on", "off"])
def test_streams(world, offloads):
    """If this fails, a checksum or a segment is left to somebody who does not do it."""
    first, second = world.guests
    for guest in world.guests:
        guest.run(f"ethtool -K seven tx {offloads} tso {offloads} gso {offloads} gro {offloads} "
                  "2>/dev/null; true")
    for options in ("", "-R", "-u -b 20M" if offloads == "on" else "-u -b 20M -R"):
        stream(second, first, "10.7.0.2", options)
    stream(first, world.kernel, "10.7.0.1" if offloads == "on" else "fd07::1", "--bidir")


def test_group(world):
    """If this fails, members of a multicast group do not find each other."""
    first, second = world.guests
    ping(first, "10.8.0.2", 60, 1514, 9014)
    ping(second, "10.8.0.3", 60, 1514, 9014)
    answers = first.run("ping -c 2 -W 5 ff02::1%eight")
    # The kernel's link-local address may still be on trial; it answers from another one then.
    assert len(set(re.findall(r"from ([0-9a-f:]+)(?:%eight)?: icmp_seq=1 ", answers))) == 3, answers
    stream(world.kernel, first, "fd08::3")


def test_vlan_inside(world):
    """If this fails, tagged frames do not pass the overlay."""
    for guest in world.guests:
        guest.run("ip link add link seven name tagged type vlan id 5 && ip link set tagged up && "
                  f"ip addr add 10.5.0.{guest.number}/24 dev tagged")
    ping(world.guests[0], "10.5.0.2", 64, 1514, 9014)
    for guest in world.guests:
        guest.run("ip link del tagged")


class Capture(Process):
    """tshark on the wire."""

    def __init__(self, world, name):
        self.file = world.directory / "wire.pcapng"
        self.space = world.wire.space
        super().__init__([*self.space.prefix, "tshark", "-q", "-i", name, "-f", "udp port 4789",
                          "-w", self.file], str(world.directory / "tshark.log"))

    def start(self):
        super().start()
        wait_until(lambda: self.check_running() and "Capturing on" in self.output(), 20, "tshark")
        time.sleep(0.5)
        return self

    def finish(self):
        time.sleep(0.5)
        self.popen.send_signal(signal.SIGINT)
        self.popen.wait(10)

    def decoded(self, which, *fields):
        """A list of tuples, of all packets that match; every checksum is looked at."""
        checks = [word for protocol in ("ip", "udp", "tcp")
                  for word in ("-o", f"{protocol}.check_checksum:TRUE")]
        names = [word for field in fields for word in ("-e", field)]
        out = self.space.run("tshark", "-r", str(self.file), *checks, "-Y", which, "-T", "fields",
                             *names)
        return [tuple(line.split("\t")) for line in out.splitlines()]


@pytest.fixture(name="whole_packets")
def whole_packets_fixture(world):
    """No checksum or segmentation is left to a card while this lasts: a capture shows all."""
    for setting in ("off", "on"):
        for host in world.hosts:
            host.space.run("ethtool", "-K", "eth0", "tx", setting, "gso", setting, "tso", setting)
        if setting == "off":
            yield


def test_capture(world, whole_packets):
    """If this fails, what is on the wire is not VXLAN as others know it, or a checksum is wrong."""
    first, second = world.guests
    capture = Capture(world, "to1").start()
    for guest in world.guests:
        guest.run("ethtool -K seven tx on tso on gso on 2>/dev/null; true")
    ping(first, "10.7.0.2", 60, 1514, 9014)
    ping(first, "10.8.0.3", 60, 1514, 9014)
    first.run("ping -q -c 2 -W 5 fd07::3")
    stream(second, first, "10.7.0.2", much="-n 500K")
    stream(second, first, "10.7.0.2", "-u -b 1M -R")
    stream(first, world.kernel, "fd07::1", much="-n 500K")
    capture.finish()
    bad = capture.decoded("ip.checksum.status==0 || udp.checksum.status==0 || tcp.checksum.status==0 "
                          "|| icmp.checksum.status==0 || icmpv6.checksum.status==0 || _ws.malformed",
                          "frame.number", "_ws.col.Info")
    assert not bad, bad[:10]
    all_of_it = capture.decoded("vxlan", "vxlan.flags", "vxlan.vni", "udp.dstport", "ipv6.version")
    assert {(flags, vni) for flags, vni, _, _ in all_of_it} == {("0x0800", "7"), ("0x0800", "8")}
    assert all(ports.split(",")[0] == "4789" for _, _, ports, _ in all_of_it)
    for which, least in (("vxlan && tcp.checksum.status==1 && ip.src==10.7.0.1", 20),
                         ("vxlan && tcp.checksum.status==1 && ipv6.src==fd07::1", 5),
                         ("vxlan && udp.checksum.status==1 && ip.src==10.7.0.2", 20),
                         ("vxlan && icmp && ipv6.src==fd77::1 && ip.src==10.8.0.1", 6)):
        assert len(capture.decoded(which, "frame.number")) >= least, which
    sources = {ports.split(",")[0] for (ports,) in
               capture.decoded("vxlan && ip.src==10.77.0.1", "udp.srcport")}
    assert all(49152 <= int(port) for port in sources), sources


def test_way_that_is_too_narrow(world):
    """If this fails, frames that are too large for the way vanish without a word."""
    first = world.guests[0]
    route = ("ip", "route", "replace", "10.77.0.2/32", "dev", "eth0")
    first.space.run(*route, "mtu", "1400")
    assert "100% packet loss" in first.run("ping -c 2 -i 0.2 -W 1 -M do -s 1472 10.7.0.2; true")
    ping(first, "10.7.0.2", 1364)
    ping(first, "10.7.0.3", 1514)
    assert re.search(r"lost a frame of 1514 bytes: its outer packet has 1550, the way to 10.77.0.2\S* "
                     r"takes 1400; an MTU of 1350 would pass", first.outboard.output())
    assert sum(values.get("sent_too_large", 0) for values in first.outboard.counters().values()) >= 2
    first.space.run("ip", "route", "del", "10.77.0.2/32", "dev", "eth0", "mtu", "1400")
    ping(first, "10.7.0.2", 1514)
