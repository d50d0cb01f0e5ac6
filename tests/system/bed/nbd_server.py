"""nbdkit on a Unix socket."""
import os
import subprocess

from .process import Process, wait_until


class NbdServer(Process):
    """Serves a plugin: NbdServer(directory, "file", "/path/to/image").  kill() and start() again to
    see what a client makes of a server that restarts; note that "memory" forgets then."""

    def __init__(self, directory, *plugin, options=(), name="nbd"):
        self.socket = os.path.join(directory, f"{name}.sock")
        super().__init__(["nbdkit", "--foreground", "--exit-with-parent", "--unix", self.socket,
                          *options, *plugin], os.path.join(directory, f"{name}.log"))

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        super().start()
        wait_until(lambda: self.check_running() and os.path.exists(self.socket), 10, "nbdkit")
        return self

    def copy_to(self, path):
        """Reads the whole disk by another NBD client into a sparse file."""
        subprocess.run(["nbdcopy", self.uri, path], check=True, timeout=300)
