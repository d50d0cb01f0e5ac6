"""The program under test."""
import json
import os
import pathlib
import signal

from .process import Process, wait_until

SOURCE = pathlib.Path(__file__).resolve().parents[3]


ACCEPTS = 1 << 16                       # __SO_ACCEPTCON, in the flags of /proc/net/unix
OPTION_OF = {"vhost-user": "--socket-path", "vfio-user": "--vfio-user"}


def program():
    """Another build than ./build is tested by naming its program in OUTBOARD_PROGRAM."""
    return os.environ.get("OUTBOARD_PROGRAM", str(SOURCE / "build" / "src" / "outboard"))


def listening_sockets(pid):
    """The paths of Unix sockets that can be connected to in the process's network namespace: one
    that is bound does not listen yet."""
    lines = pathlib.Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8").splitlines()[1:]
    return {line.split()[7] for line in lines
            if int(line.split()[3], 16) & ACCEPTS and len(line.split()) == 8}


def parse_counters(text):
    """{(room, name): {counter: value}}: the last value each "room name counter value" line had."""
    counters = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[3].isdigit():
            counters.setdefault((words[0], words[1]), {})[words[2]] = int(words[3])
    return counters


class Outboard(Process):
    """outboard blk or net on one socket, or outboard serve on those that its configuration names."""

    def __init__(self, directory, disk=None, *options, name="outboard", socket=None, connect=False,
                 config=None, prefix=(), transport="vhost-user", port=None, inherited=()):
        self.directory = str(directory)
        self.transport = transport
        self.socket = socket or os.path.join(self.directory, f"{name}.sock")
        if config is not None:
            self.config = os.path.join(self.directory, f"{name}.json")
            pathlib.Path(self.config).write_text(json.dumps(config, indent=4), encoding="utf-8")
            self.sockets = [device.get("socket-path") or device["vfio-user"]
                            for device in config["devices"]]
            arguments = ["serve", "--config", self.config]
        else:
            self.sockets = [] if connect else [self.socket]
            what = ["net", "--port", port] if port else ["blk", "--disk", disk]
            arguments = [*what, OPTION_OF[transport], self.socket,
                         *(["--connect"] if connect else [])]
        super().__init__([*prefix, program(), *arguments, *options],
                         os.path.join(self.directory, f"{name}.log"), pass_fds=inherited)

    def start(self):
        """Returns when its sockets can be connected to."""
        for socket in self.sockets:
            if os.path.exists(socket):
                os.unlink(socket)
        super().start()
        wait_until(self._listens, 20, "outboard's sockets")
        return self

    def _listens(self):
        self.check_running()
        return set(self.sockets) <= listening_sockets(self.pid)

    def restart(self):
        """kill -9 and start: what a crash looks like from outside."""
        self.kill()
        return self.start()

    def signal(self, number):
        self.check_running()
        os.kill(self.pid, number)

    def counters(self):
        """What a running program prints on SIGUSR1."""
        before = len(self.output())
        self.signal(signal.SIGUSR1)
        text = wait_until(lambda: self._fresh_lines(before), 10, "the counters")
        return parse_counters(text)

    def _fresh_lines(self, before):
        text = self.output()[before:]
        return text if text.count("\n") > 3 and text.endswith("\n") else None

    def final_counters(self):
        """What it printed at exit, started with --stats; all runs in this log folded together."""
        return parse_counters(self.output())
