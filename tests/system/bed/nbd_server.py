"""NBD servers on Unix sockets."""
import os
import subprocess

from .process import Process, wait_until


class Server(Process):
    """kill() and start() again to see what a client makes of a server that restarts."""

    def __init__(self, directory, name, arguments):
        self.socket = os.path.join(directory, f"{name}.sock")
        arguments = [argument.replace("SOCKET", self.socket) for argument in arguments]
        super().__init__(arguments, os.path.join(directory, f"{name}.log"))

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"

    def start(self):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        super().start()
        wait_until(lambda: self.check_running() and os.path.exists(self.socket), 10,
                   "the NBD server")
        return self

    def copy_to(self, path):
        """Reads the whole disk by another NBD client into a sparse file."""
        subprocess.run(["nbdcopy", self.uri, path], check=True, timeout=300)


class NbdServer(Server):
    """nbdkit with a plugin: NbdServer(directory, "file", "/path/to/image").  "memory" forgets when
    it is killed."""

    def __init__(self, directory, *plugin, options=(), name="nbd"):
        super().__init__(str(directory), name, ["nbdkit", "--foreground", "--exit-with-parent",
                                                "--unix", "SOCKET", *options, *plugin])


class QemuNbdServer(Server):
    """qemu-nbd with a raw image.  Where clients die under load: nbdkit 1.32 may then fail an
    assertion of its own (raw_send_socket: sock >= 0)."""

    def __init__(self, directory, image, name="qemu-nbd"):
        super().__init__(str(directory), name, ["qemu-nbd", "--socket=SOCKET", "--format=raw",
                                                "--persistent", "--shared=0", "--discard=unmap",
                                                image])
