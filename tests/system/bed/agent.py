"""The host's side of /usr/local/sbin/guest-agent."""
import base64
import contextlib
import select
import socket
import time


class CommandFailed(Exception):
    """A command in the guest returned another status than 0."""


class Job:
    """A command that runs in the guest.  The agent runs one at a time."""

    def __init__(self, agent, number, script):
        self.agent = agent
        self.number = number
        self.script = script

    def wait(self, timeout=60, check=True):
        """Its output (stdout and stderr).  Raises CommandFailed or TimeoutError."""
        self.agent.read_until(f"begin {self.number}", timeout)
        lines = []
        while True:
            line = self.agent.read_line(timeout, self.script)
            if line.startswith(f"end {self.number} "):
                break
            lines.append(line)
        output = base64.b64decode("".join(lines)).decode(errors="replace")
        status = int(line.split()[2])
        if check and status != 0:
            raise CommandFailed(f"guest: {self.script}\nexit status {status}\n{output}")
        return output

    def running(self):
        """Whether the guest has not yet answered; also looks for what has arrived."""
        return not self.agent.has(f"begin {self.number}")


class Agent:
    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.received = b""
        self.number = 0

    def _receive(self, timeout):
        if select.select([self.socket], [], [], timeout)[0]:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("QEMU closed the agent's port")
            self.received += data

    def read_line(self, timeout, what="the guest's agent"):
        deadline = time.monotonic() + timeout
        while b"\n" not in self.received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"guest: no answer in {timeout} s: {what}")
            self._receive(left)
        line, self.received = self.received.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r\0 ")

    def read_until(self, wanted, timeout):
        deadline = time.monotonic() + timeout
        while self.read_line(max(0.01, deadline - time.monotonic()), wanted) != wanted:
            pass

    def has(self, line):
        self._receive(0)
        return any(got.strip(b"\r\0 ") == line.encode() for got in self.received.split(b"\n")[:-1])

    def wait_ready(self, timeout):
        """Until the agent says that it has started; what came before is forgotten."""
        deadline = time.monotonic() + timeout
        while not self.read_line(max(0.01, deadline - time.monotonic())).endswith("ready"):
            pass

    def start(self, script):
        self.number += 1
        encoded = base64.b64encode(script.encode()).decode()
        self._send(f"{self.number} {encoded}\n".encode())
        return Job(self, self.number, script)

    def _send(self, data):
        while data:
            select.select([], [self.socket], [], 10)
            data = data[self.socket.send(data):]

    def follow(self, other):
        """The agent has moved from the port that the other one is connected to to this one's."""
        with contextlib.suppress(ConnectionError):
            while select.select([other.socket], [], [], 0)[0]:
                other._receive(0)       # pylint: disable=protected-access
        self.received = other.received + self.received
        self.number = other.number

    def close(self):
        self.socket.close()
