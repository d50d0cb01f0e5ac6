"""QEMU's machine protocol: commands, answers, events."""
import json
import socket
import time


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.stream = self.socket.makefile("r", encoding="utf-8")
        self.events = []
        self.version = json.loads(self.stream.readline())["QMP"]["version"]["qemu"]
        self.execute("qmp_capabilities")

    def _receive(self):
        line = self.stream.readline()
        if not line:
            raise ConnectionError("QEMU closed its control socket")
        return json.loads(line)

    def execute(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self._receive()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name, timeout, **data):
        """Takes the first event of this name and data that has come or comes in time."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self.events.remove(event)
                    return event
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self.events.append(self._receive())
            except (TimeoutError, OSError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no event {name} in {timeout} s") from error
                raise
            finally:
                self.socket.settimeout(30)

    def close(self):
        self.socket.close()
