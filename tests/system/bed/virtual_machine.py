"""An unmodified QEMU with a Debian guest."""
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess

from .accelerator import accelerator
from .agent import Agent
from .process import Process, wait_until
from .qmp import Qmp, QmpError

SOURCE = pathlib.Path(__file__).resolve().parents[3]
HOT_PLUG_PORTS = 6
QEMU = "qemu-system-x86_64"


@functools.lru_cache(maxsize=None)
def vfio_user_qemu():
    """A QEMU that has vfio-user-pci: the machine's own, or one that is unpacked for this."""
    return subprocess.run([SOURCE / "scripts" / "make-vmm"], check=True, capture_output=True,
                          text=True).stdout.strip()


def firmware(name):
    """A file of the firmware that belongs to that QEMU: OVMF_CODE_4M.fd, OVMF_VARS_4M.fd."""
    beside = pathlib.Path(vfio_user_qemu()).parent / "firmware" / name
    return beside if beside.exists() else pathlib.Path("/usr/share/OVMF") / name


@functools.lru_cache(maxsize=None)
def qemu_version(qemu=QEMU):
    version = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.search(r"version (\d+)\.(\d+)", version).groups())


def reconnect_option(qemu):
    """How to say "try again after a second": the older name is deprecated since 9.2."""
    return ("reconnect-ms", 1000) if qemu_version(qemu) >= (9, 2) else ("reconnect", 1)


def ring_options(qemu):
    """QEMU 10.0 makes rings of 1024 whatever queue-size says, but the buffer that notes what is in
    flight for as many as it says."""
    return {"queue-size": 1024} if qemu_version(qemu) >= (9, 2) else {}


@dataclasses.dataclass
class Disk:
    """A vhost-user-blk device; server: QEMU listens on the socket and Outboard connects to it."""
    socket: str
    name: str = "disk"
    queues: int = 4
    server: bool = False
    options: dict = dataclasses.field(default_factory=dict)
    qemu: str = QEMU

    def chardev_arguments(self):
        how = "server=on,wait=off" if self.server else "=".join(map(str, reconnect_option(self.qemu)))
        return ["-chardev", f"socket,id={self.name}-socket,path={self.socket},{how}"]

    def chardev_backend(self):
        data = {"addr": {"type": "unix", "data": {"path": self.socket}}, "server": self.server}
        if self.server:
            data["wait"] = False
        else:
            name, value = reconnect_option(self.qemu)
            data[name] = value
        return {"type": "socket", "data": data}

    def device(self):
        return {"driver": "vhost-user-blk-pci", "id": self.name, "chardev": f"{self.name}-socket",
                "num-queues": self.queues, **ring_options(self.qemu), **self.options}

    def device_arguments(self):
        return ["-device", ",".join(f"{key}={value}" for key, value in self.device().items())]

    def plug(self, qmp, port):
        qmp.execute("chardev-add", id=f"{self.name}-socket", backend=self.chardev_backend())
        try:
            qmp.execute("device_add", bus=port, **self.device())
        except QmpError:
            qmp.execute("chardev-remove", id=f"{self.name}-socket")
            raise

    def unplugged(self, qmp):
        """After the device has gone; false: QEMU has not let go of the socket yet."""
        try:
            qmp.execute("chardev-remove", id=f"{self.name}-socket")
        except QmpError:
            return False
        return True


@dataclasses.dataclass
class PciDisk(Disk):
    """A PCI function of Outboard's over vfio-user."""

    def chardev_arguments(self):
        return []

    def device(self):
        return {"driver": "vfio-user-pci", "id": self.name,
                "socket": {"type": "unix", "path": self.socket}, **self.options}

    def device_arguments(self):
        return ["-device", json.dumps(self.device())]

    def plug(self, qmp, port):
        qmp.execute("device_add", bus=port, **self.device())

    def unplugged(self, qmp):
        return True


@dataclasses.dataclass
class Nic(Disk):
    """A network device over vhost-user; queues: pairs of them."""
    name: str = "net0"
    queues: int = 1
    reconnects: bool = False

    def chardev_arguments(self):
        if self.reconnects:
            return super().chardev_arguments()
        return ["-chardev", f"socket,id={self.name}-socket,path={self.socket}"]

    def device_arguments(self):
        multiqueue = {"mq": True} if self.queues > 1 else {}
        return ["-netdev", f"vhost-user,id={self.name}-net,chardev={self.name}-socket,"
                f"queues={self.queues}",
                "-device", json.dumps({"driver": "virtio-net-pci", "id": self.name,
                                       "netdev": f"{self.name}-net", **multiqueue, **self.options})]


def kernel_command_line(quick=True, options=""):
    """quick: to the guest's agent without systemd."""
    init = "init=/usr/local/sbin/guest-init quiet" if quick else ""
    return f"console=ttyS0 root=LABEL=outboard-root rw panic=-1 {init} {options}"


class VirtualMachine(Process):
    """root is a Disk that Outboard serves, or None: then the root file system is a throw-away copy
    of the guest's image on a disk of QEMU's own, and the disks under test are attached later.
    qemu: the program, if not the machine's own.  shared: devices may map the guest's memory.
    disks: what is there from the start.  boots_by: "kernel", which QEMU loads, or the firmware
    ("seabios", "ovmf") that has to find a boot disk among disks.  memory: megabytes.  drive: QEMU's
    own disk, a qcow2 image that is written to.  incoming: waits for another one to migrate here."""

    def __init__(self, directory, guest, root=None, name="vm", quick=True, cpus=4,
                 kernel_options="", console=None, qemu=QEMU, shared=True,
                 disks=(), boots_by="kernel", memory=512, drive=None, incoming=False):
        self.directory = str(directory)
        self.guest = guest
        self.root = root
        self.drive = f"file={drive},format=qcow2" if drive else \
            f"file={guest.disk},format=raw,snapshot=on"
        self.name = name
        self.quick = quick
        self.console_log = self._path("console.log")
        self.qmp = None
        self.agent = None
        self.ports = {}
        self.plugged = 0
        super().__init__([qemu, *self._memory(shared, memory),
                          *self._boot_arguments(boots_by, quick, kernel_options),
                          *self._arguments(cpus, console),
                          *(argument for disk in disks
                            for argument in disk.chardev_arguments() + disk.device_arguments()),
                          *(["-incoming", "defer"] if incoming else [])],
                         self._path("qemu.log"))

    def _path(self, name):
        return os.path.join(self.directory, f"{self.name}-{name}")

    @staticmethod
    def _memory(shared, megabytes):
        if not shared:
            return ["-machine", "q35", "-m", f"{megabytes}M"]
        return ["-machine", "q35,memory-backend=mem", "-m", f"{megabytes}M",
                "-object", f"memory-backend-memfd,id=mem,size={megabytes}M,share=on"]

    def _boot_arguments(self, boots_by, quick, kernel_options):
        if boots_by == "kernel":
            return ["-kernel", self.guest.kernel, "-initrd", self.guest.initrd,
                    "-append", kernel_command_line(quick, kernel_options)]
        if boots_by == "seabios":
            return []
        variables = shutil.copy(firmware("OVMF_VARS_4M.fd"), self._path("variables.fd"))
        code = firmware("OVMF_CODE_4M.fd")
        return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
                "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]

    def _arguments(self, cpus, console):
        arguments = [
            "-accel", accelerator(self.guest), "-cpu", "max", "-smp", str(cpus),
            "-nodefaults", "-no-user-config", "-display", "none",
            "-chardev", console or f"file,id=console,path={self.console_log}",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={self._path('agent.sock')},server=on,wait=off",
            "-serial", "chardev:agent",
            "-qmp", f"unix:{self._path('qmp.sock')},server=on,wait=off"]
        if self.root is None:
            arguments += ["-drive", f"{self.drive},if=virtio"]
        else:
            arguments += self.root.chardev_arguments() + self.root.device_arguments()
        for number in range(HOT_PLUG_PORTS):
            arguments += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1}"]
        return arguments

    def start(self):
        """Returns when QEMU runs; wait_ready() waits for the guest."""
        super().start()
        self.agent = self._connected("agent.sock", Agent)
        self.qmp = self._connected("qmp.sock", Qmp)
        return self

    def _connected(self, name, kind):
        def attempt():
            self.check_running()
            try:
                return kind(self._path(name))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
        return wait_until(attempt, 30, name)

    def wait_ready(self, timeout=120):
        try:
            self.agent.wait_ready(timeout)
        except (TimeoutError, ConnectionError) as error:
            raise RuntimeError(f"the guest did not boot ({error}):\n{self.console()[-4000:]}\n"
                               f"QEMU: {self.output()}\n{self.whereabouts()}") from error
        return self

    def whereabouts(self):
        """What QEMU's processors are at, for one that hangs."""
        try:
            text = self.qmp.execute("human-monitor-command", **{"command-line": "info registers -a"})
            return "\n".join(line for line in text.splitlines() if "CPU#" in line or "IP=" in line)
        except (OSError, ConnectionError, QmpError) as error:
            return f"QEMU's monitor does not answer: {error!r}"

    def boot(self, timeout=120):
        if not self.running:
            self.start()
        return self.wait_ready(timeout)

    def console(self):
        with open(self.console_log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def run(self, script, timeout=60, check=True):
        """Runs a shell script in the guest; returns its output, raises if it fails."""
        return self.start_job(script).wait(timeout, check)

    def start_job(self, script):
        return self.agent.start(script)

    def disks(self):
        """Those that can be opened: a disk's node appears a little later than its directory."""
        return set(self.run("cd /sys/block && for disk in vd*; do "
                            "[ -b /dev/$disk ] && echo $disk; done; true").split())

    def attach(self, disk):
        """Plugs the disk in; returns the guest's name for it ("vdb")."""
        before = self.disks()
        self.plug(disk)
        return wait_until(lambda: self.disks() - before, 30, "the new disk in the guest").pop()

    def plug(self, disk):
        """Plugs the disk in, and does not wait until the guest has seen it."""
        # Not the one just left: the guest may still be busy with what happened there.
        numbers = [(self.plugged + number) % HOT_PLUG_PORTS for number in range(HOT_PLUG_PORTS)]
        port = next(port for port in (f"port{number}" for number in numbers)
                    if port not in self.ports.values())
        self.plugged += 1
        disk.plug(self.qmp, port)
        self.ports[disk.name] = port

    def detach(self, *disks):
        """Asks the guest to let go of the disks and waits until QEMU has removed them."""
        for disk in disks:
            self.qmp.execute("device_del", id=disk.name)
        for disk in disks:
            self.qmp.wait_event("DEVICE_DELETED", 60, device=disk.name)
            del self.ports[disk.name]
            wait_until(lambda: disk.unplugged(self.qmp), 10, "QEMU to let go of the socket")

    def reset(self, timeout=120):
        """The reset button."""
        self.qmp.execute("system_reset")
        return self.wait_ready(timeout)

    def take_over(self, source):
        """The guest has migrated here from there: what its agent had said there, it has said."""
        self.agent.follow(source.agent)

    def power_off(self, timeout=60):
        """Shuts the guest down cleanly, from within."""
        self.start_job("sync; mount -o remount,ro /; poweroff -f" if self.quick
                       else "systemctl poweroff")
        self.popen.wait(timeout)
        self._close()

    def _close(self):
        for connection in (self.agent, self.qmp):
            if connection is not None:
                connection.close()

    def stop(self, timeout=10):
        self._close()
        return super().stop(timeout)
