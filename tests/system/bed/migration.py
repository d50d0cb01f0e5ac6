"""Live migration of one QEMU's guest to another."""
import time

from .process import wait_until

ENDS = ("completed", "failed", "cancelled")


def set_return_path(machine, on):
    machine.qmp.execute("migrate-set-capabilities", capabilities=[
        {"capability": "return-path", "state": on}])


class Migration:
    """From one running virtual machine to one that was started with incoming=True.  The socket is a
    path that nobody uses yet.  "completed" is what the destination has confirmed: without the return
    path, a source believes that its guest has gone when the destination has refused it.
    paused: the guest stands still from the beginning to the end."""

    def __init__(self, source, destination, socket, downtime_ms=60, bandwidth=1 << 28, paused=False):
        self.source = source
        self.destination = destination
        self.address = f"unix:{socket}"
        self.parameters = {"downtime-limit": downtime_ms, "max-bandwidth": bandwidth}
        self.paused = paused
        self.begun = None
        self.ended = None

    def start(self):
        for machine in (self.destination, self.source):
            set_return_path(machine, True)
        self.destination.qmp.execute("migrate-incoming", uri=self.address)
        self.source.qmp.execute("migrate-set-parameters", **self.parameters)
        self._ask()
        return self

    def _ask(self):
        self.begun = time.time()
        if self.paused:
            self.source.qmp.execute("stop")
        self.source.qmp.execute("migrate", uri=self.address)

    def start_slowly(self):
        """It takes a second or two."""
        self.parameters["max-bandwidth"] = 96 << 20
        return self.start()

    def wait_under_way(self):
        """Some of the memory is there, most of it is not."""
        wait_until(lambda: self.state().get("ram", {}).get("transferred", 0) > 8 << 20, 30,
                   "the migration to get going")

    def cancel(self):
        self.source.qmp.execute("migrate_cancel")

    def state(self):
        """What the source says of it: "status" and, once it is known, "total-time", "downtime"."""
        return self.source.qmp.execute("query-migrate")

    def wait(self, timeout=60):
        """Until it is over, one way or another; returns the last state()."""
        def over():
            self.source.check_running()
            state = self.state()
            return state if state.get("status") in ENDS else None
        state = wait_until(over, timeout, "the migration")
        self.ended = time.time()
        if self.paused and state["status"] != "completed":
            self.source.qmp.execute("cont")
        return state

    def move(self, timeout=60):
        """It is to succeed, and the guest goes on at the destination; returns the last state()."""
        state = self.start().wait(timeout)
        assert state["status"] == "completed", \
            f"{state}\nsource: {self.source.output()}\ndestination: {self.destination.output()}"
        self.wait_resumed()
        return state

    def wait_resumed(self):
        """The destination has the guest."""
        if self.paused:
            self.destination.qmp.execute("cont")
        wait_until(lambda: self.destination.qmp.execute("query-status")["running"], 30,
                   "the guest to go on at the destination")
        self.destination.take_over(self.source)


class Suspension(Migration):
    """To a file, and from there into a virtual machine that is started when the other has ended."""

    def __init__(self, source, destination, path, paused=False, **_):
        super().__init__(source, destination, path, paused=paused)
        self.address = f"exec:cat >{path}"
        self.path = path

    def start(self):
        set_return_path(self.source, False)
        self.source.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 32})
        self._ask()
        return self

    def resume(self):
        self.source.qmp.execute("quit")
        self.source.popen.wait(10)
        self.destination.start()
        self.destination.qmp.execute("migrate-incoming", uri=f"exec:cat {self.path}")
        self.wait_resumed()
        self.source.stop()
