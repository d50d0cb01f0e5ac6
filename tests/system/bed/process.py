"""A child process with its output in a file, ended by its own process id."""
import os
import signal
import subprocess
import time


def wait_until(condition, timeout, what):
    """Polls condition() until it is true; its value is returned."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        time.sleep(0.02)


def cpu_ticks(pid):
    """CPU time of all the process's threads in clock ticks, not whole ones: what /proc/PID/stat
    tells steps by one when a microsecond is spent at the wrong moment."""
    nanoseconds = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as spent:
            nanoseconds += int(spent.read().split()[0])
    return nanoseconds * os.sysconf("SC_CLK_TCK") / 1e9


class Process:
    """Context manager: leaving it ends the process, by SIGTERM and then by SIGKILL."""

    def __init__(self, arguments, log, **options):
        self.arguments = [str(argument) for argument in arguments]
        self.log = log
        self.popen = None
        self.options = options

    def start(self):
        assert not self.running, f"{self.arguments[0]} runs already"
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(self.arguments, stdout=log, stderr=subprocess.STDOUT,
                                          **{"stdin": subprocess.DEVNULL, **self.options})
        return self

    @property
    def pid(self):
        return self.popen.pid

    @property
    def running(self):
        return self.popen is not None and self.popen.poll() is None

    def output(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def check_running(self):
        if not self.running:
            raise RuntimeError(f"{self.arguments[0]} ended with {self.popen.returncode}:\n"
                               + self.output()[-4000:])
        return True

    def kill(self):
        """kill -9, and reaps it."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout=10):
        """SIGTERM; returns the exit status.  One that does not end in time is killed: an error."""
        if self.popen is None:
            return 0
        if self.running:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.arguments[0]} ignored SIGTERM for {timeout} s:\n"
                               + self.output()[-4000:]) from None

    def __enter__(self):
        return self if self.running else self.start()

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        elif self.running:
            self.kill()
