"""qemu-storage-daemon: the other back-end that QEMU's vhost-user disks know."""
import os

from .process import Process, wait_until


class StorageDaemon(Process):
    """Serves a raw image on that socket, past the page cache, with no lock on it."""

    def __init__(self, image, socket, queues):
        self.socket = socket
        super().__init__(["qemu-storage-daemon", "--blockdev",
                          f"driver=file,node-name=disk,filename={image},cache.direct=on,locking=off,"
                          "discard=unmap",
                          "--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,"
                          f"addr.type=unix,addr.path={socket},num-queues={queues}"],
                         f"{socket}.log")

    def start(self):
        super().start()
        wait_until(lambda: self.check_running() and os.path.exists(self.socket), 10,
                   "qemu-storage-daemon")
        return self
