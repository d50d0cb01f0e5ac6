"""A guest on several ports at once: raw interfaces by AF_PACKET and AF_XDP, a TAP interface on a
bridge, one that is a port of Open vSwitch, one that was made before and is inherited as a
descriptor, user-mode networking.  Over vhost-user QEMU is the distribution's own."""
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from bed import (QEMU, Guest, Namespace, Nic, OpenVSwitch, Outboard, PciDisk, Process, Unavailable,
                 VirtualMachine, cpu_ticks, vfio_user_qemu)
from conftest import quiet, running

pytestmark = pytest.mark.vm

IDLE_SECONDS = 10
PEERS = Path(__file__).resolve().parent / "peers"
# By name: the number in its addresses, the largest frame (AF_XDP's buffers are smaller), its URI.
PORTS = {"packet": (1, 9014, "packet:packet0?mode=packet"),
         "afxdp": (2, 3014, "packet:afxdp0?mode=xdp"),
         "bridge": (3, 9014, "tap:guest"),
         "ovs": (5, 9014, "tap:switched"),
         "fd": (4, 9014, "capture+tap:?fd={fd}&file={file}")}

# With a network of its own and two ways in; and one that leads nowhere.
USERS = {"user": "user:?net=10.44.0.0/24&forward=tcp:7001:5201,udp:127.0.0.1:7001:5201",
         "jail": "user:?restrict=on&ipv6=off"}


class World:
    """For each port the host has an interface, and the peer its other end, of the port's name."""

    def __init__(self, transport):
        if not os.path.exists("/dev/net/tun"):
            raise Unavailable("no /dev/net/tun here")
        self.transport = transport
        self.directory = Path(tempfile.mkdtemp(prefix="outboard."))
        self.host, self.peer = Namespace("host"), Namespace("peer")
        self.capture = self.directory / "capture.pcapng"
        self.tap = None
        self.outboard = None
        self.switch = OpenVSwitch(self.directory, self.host.prefix)
        self.resolver = Path("/etc/netns") / self.host.name  # what ip-netns(8) puts over /etc
        self.servers = [
            Process([*self.host.prefix, "/usr/bin/python3", PEERS / "name_server.py"],
                    str(self.directory / "names.log")),
            Process([*self.host.prefix, "/usr/bin/python3", "-m", "http.server", "--bind",
                     "127.0.0.1", "--directory", str(self.directory), "7100"],
                    str(self.directory / "web.log"))]
        # Without KVM two processors of QEMU 7.2 and interrupt lines lock each other up at times.
        self.vm = VirtualMachine(self.directory, Guest.make(), disks=self.devices(),
                                 cpus=2 if transport == "vfio-user" else 1,
                                 qemu=vfio_user_qemu() if transport == "vfio-user" else QEMU)

    def sockets(self):
        return {name: str(self.directory / f"{name}.sock") for name in [*PORTS, *USERS]}

    @staticmethod
    def mac(name):
        return f"52:54:00:00:20:{[*PORTS, *USERS].index(name) + 1:02x}"

    def devices(self):
        if self.transport == "vfio-user":
            return [PciDisk(path, name=name) for name, path in self.sockets().items()]
        # QEMU 7.2 without KVM loses a vhost-user device's MSI-X interrupts.
        return [Nic(path, name=name, options={"mac": self.mac(name), "vectors": 0})
                for name, path in self.sockets().items()]

    def connect(self):
        for name, (number, frame, _) in PORTS.items():
            self.host.ip(f"link add {name}0 mtu {frame - 14} type veth peer name {name} "
                         f"mtu {frame - 14} netns {self.peer.name}", f"link set {name}0 up")
            self.peer.ip(f"addr add 10.20.{number}.1/24 dev {name}",
                         f"addr add fd20:{number}::1/64 dev {name} nodad", f"link set {name} up")
        # AF_XDP does not say what is still to be done in a frame.
        self.peer.run("ethtool", "-K", "afxdp", "tx", "off", "tso", "off", "gso", "off")

    def open_tap(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run([*self.host.prefix, "/usr/bin/python3", PEERS / "open_tap.py"], stdin=theirs,
                           check=True)
            _, (self.tap,), _, _ = socket.recv_fds(ours, 1, 1)

    def start_outboard(self):
        uris = {name: uri.format(fd=self.tap, file=self.capture)
                for name, (_, _, uri) in PORTS.items()} | USERS
        place = "socket-path" if self.transport == "vhost-user" else "vfio-user"
        self.outboard = Outboard(
            self.directory, prefix=self.host.prefix,
            config={"devices": [{"type": "net", "name": name, "port": uri, "mac": self.mac(name),
                                 place: self.sockets()[name]} for name, uri in uris.items()]},
            inherited=[self.tap])
        self.outboard.start()

    def build_bridges(self):
        for name, tap in (("bridge", "guest"), ("fd", "made")):
            self.host.ip(f"link add {name}1 type bridge", f"link set {tap} mtu 9000 up",
                         f"link set {name}0 master {name}1", f"link set {tap} master {name}1",
                         f"link set {name}1 mtu 9000 up")
        self.host.ip("link set switched mtu 9000 up")
        self.switch.start().bridge("ovs1", "switched", "ovs0")

    def start(self):
        self.connect()
        self.open_tap()
        self.resolver.mkdir(parents=True)
        (self.resolver / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
        for server in self.servers:
            server.start()
        self.start_outboard()
        self.build_bridges()
        self.vm.boot()
        self.vm.run("modprobe virtio_net; udevadm settle 2>/dev/null; ip link set lo up")
        for name in self.sockets():
            self.vm.run(f"""
                for link in /sys/class/net/*; do
                    [ "$(cat $link/address)" = {self.mac(name)} ] && old=${{link##*/}}
                done
                ip link set $old name {name} && ip link set {name} up""")
        for name, (number, frame, _) in PORTS.items():
            self.vm.run(f"ip link set {name} mtu {frame - 14}; ip addr add 10.20.{number}.2/24 dev "
                        f"{name}; ip addr add fd20:{number}::2/64 dev {name} nodad")
        for name in USERS:
            self.vm.run(f"udhcpc -i {name} -n -q -t 10 >/run/udhcpc.log 2>&1")
        return self

    def end(self):
        if self.vm.running:
            self.vm.kill()
        self.vm.stop()
        if self.outboard:
            self.outboard.stop()
        self.switch.stop()
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.resolver, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.resolver.parent.rmdir()    # unless others are there
        if self.tap is not None:
            os.close(self.tap)
        self.host.end()
        self.peer.end()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module", name="world", params=["vhost-user", "vfio-user"])
def world_fixture(request):
    with running(World, request.param) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernel(world):
    with quiet(world.vm):
        yield


@pytest.mark.parametrize("name", PORTS)
def test_every_size(world, name):
    """If this fails, frames of some size are cut, padded or lost."""
    number, largest, _ = PORTS[name]
    sizes = [size for size in (42, 59, 60, 61, 127, 1024, 1514, 1515, 2049, 4096, largest)
             if size <= largest]
    world.vm.run(" && ".join(f"ping -q -c 2 -i 0.1 -W 5 -M do -s {size - 42} 10.20.{number}.1"
                             for size in sizes))
    world.vm.run(f"ping -q -c 2 -W 5 fd20:{number}::1")
    world.peer.run("ping", "-q", "-c", "2", "-W", "5", "-s", str(largest - 42), f"10.20.{number}.2")


@pytest.mark.parametrize("name", PORTS)
def test_streams(world, name):
    """If this fails, a checksum or a segment is left to somebody who does not do it."""
    number = PORTS[name][0]
    for offloads, options in (("on", ("--bidir",)), ("off", ("--bidir",)),
                              ("on", ("-u", "-b", "20M", "--bidir"))):
        world.vm.run(f"ethtool -K {name} tx {offloads} tso {offloads} gso {offloads} "
                     f"gro {offloads} 2>/dev/null\n"
                     "iperf3 -s -1 -D --logfile /dev/null\n"
                     "until ss -ltn | grep -q :5201; do sleep 0.1; done")
        target = f"fd20:{number}::2" if offloads == "off" else f"10.20.{number}.2"
        assert "receiver" in world.peer.run("iperf3", "-c", target, "-t", "1", *options)


@pytest.mark.parametrize("name", PORTS)
def test_tags_and_groups(world, name):
    """If this fails, tagged frames do not pass, or those for groups."""
    number = PORTS[name][0]
    world.vm.run(f"ip link add link {name} name tagged type vlan id 5 && ip link set tagged up && "
                 f"ip addr add 10.25.{number}.2/24 dev tagged")
    answer = world.peer.run("/usr/bin/python3", str(PEERS / "ask_tagged.py"), name, str(number))
    assert answer == f"answer from 10 25 {number} 2\n"
    world.vm.run("ip link del tagged")
    assert "bytes from fe80" in world.vm.run(f"ping -c 1 -W 5 ff02::1%{name}")
    assert "bytes from fe80" in world.peer.run("ping", "-c", "1", "-W", "5", f"ff02::1%{name}")


def test_user_network_lets_in_what_is_forwarded(world):
    """If this fails, a guest behind user-mode networking cannot serve, or not at its addresses."""
    assert "10.44.0.15" in world.vm.run("ip -4 -br addr show dev user")
    for options in ((), ("-R",), ("-u", "-b", "5M"), ("-u", "-b", "5M", "-R")):
        world.vm.run("iperf3 -s -1 -D --logfile /dev/null\n"
                     "until ss -ltn | grep -q :5201; do sleep 0.1; done")
        assert "receiver" in world.host.run("iperf3", "-c", "127.0.0.1", "-p", "7001", "-t", "1",
                                            *options)


def test_user_network_has_a_name_server(world):
    """If this fails, names that the host knows mean nothing to a guest."""
    assert "10.1.2.3" in world.vm.run("busybox nslookup store.test 10.44.0.3")
    assert "10.1.2.3" not in world.vm.run("busybox nslookup other.test 10.44.0.3 2>&1; true")


def test_user_network_can_be_closed(world):
    """If this fails, a guest that may not leave reaches the host's own servers."""
    fetch = "curl -sS -m 3 -o /dev/null -w %{{http_code}} --interface {} http://{}:7100/names.log"
    assert world.vm.run(fetch.format("user", "10.44.0.2")).strip() == "200"
    assert "200" not in world.vm.run(fetch.format("jail", "10.0.2.2") + " 2>&1; true")
    assert "fec0" in world.vm.run("ip -6 addr show dev user")
    assert "fec0" not in world.vm.run("ip -6 addr show dev jail")


def test_capture_is_whole(world):
    """If this fails, a capture file is not what others read, or frames are missing in it."""
    world.vm.run("ping -q -c 3 -i 0.1 -W 5 -s 777 10.20.4.1")
    time.sleep(0.5)
    out = subprocess.run(["tshark", "-r", world.capture, "-Y", "icmp && frame.len==819", "-T",
                          "fields", "-e", "icmp.type", "-e", "frame.packet_flags_direction"],
                         check=True, capture_output=True, text=True).stdout
    assert sorted(line.split()[0] for line in out.splitlines()) == ["0"] * 3 + ["8"] * 3, out


def test_no_cpu_time_when_idle(world):
    """If this fails, something polls: a burnt core per idle VM."""
    pid = world.outboard.pid
    for _ in range(10):
        before = cpu_ticks(pid)
        time.sleep(2)
        if cpu_ticks(pid) - before < 1:
            break
    before = cpu_ticks(pid)
    time.sleep(IDLE_SECONDS)
    assert cpu_ticks(pid) - before < 1
