"""Open vSwitch in a network namespace, switching by itself: no kernel module."""
import os
import subprocess

from .process import Process, wait_until

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OpenVSwitch:
    """Its database, control sockets and logs are in the directory."""

    def __init__(self, directory, prefix):
        self.directory = os.path.join(str(directory), "ovs")
        self.environment = {**os.environ, "OVS_RUNDIR": self.directory,
                            "OVS_LOGDIR": self.directory, "OVS_DBDIR": self.directory}
        self.socket = os.path.join(self.directory, "db.sock")
        database = os.path.join(self.directory, "conf.db")
        self.database = Process(["ovsdb-server", database, f"--remote=punix:{self.socket}",
                                 "--no-chdir"], database + ".log", env=self.environment)
        self.switch = Process([*prefix, "ovs-vswitchd", f"unix:{self.socket}", "--no-chdir",
                               "--disable-system"], self.socket + ".log", env=self.environment)

    def command(self, *words):
        subprocess.run(["ovs-vsctl", f"--db=unix:{self.socket}", "--timeout=20", *words], check=True,
                       env=self.environment)

    def start(self):
        """Leaves checksums and segments to who takes them, where its ports can."""
        os.mkdir(self.directory)
        subprocess.run(["ovsdb-tool", "create", os.path.join(self.directory, "conf.db"), SCHEMA],
                       check=True, env=self.environment)
        self.database.start()
        wait_until(lambda: self.database.check_running() and os.path.exists(self.socket), 20,
                   "Open vSwitch's database")
        self.command("--no-wait", "init")
        self.command("--no-wait", "set", "Open_vSwitch", ".",
                     "other_config:userspace-tso-enable=true")
        self.switch.start()
        return self

    def bridge(self, name, *interfaces):
        self.command("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev",
                     *(word for interface in interfaces
                       for word in ("--", "add-port", name, interface)))

    def stop(self):
        self.switch.stop()
        self.database.stop()
