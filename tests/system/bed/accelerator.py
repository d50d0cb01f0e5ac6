"""Which accelerator QEMU can use here."""
import functools
import os
import subprocess
import tempfile
import time

TCG = "tcg,thread=multi"
# /dev/kvm may exist and yet be of no use: a guest kernel that gets nowhere in this time is no use.
PROBE_SECONDS = 5


def _kernel_boots(guest):
    """Boots the guest's kernel without a disk under KVM: with KVM it panics for want of a root file
    system, and so reboots (QEMU exits), within a second."""
    command = ["qemu-system-x86_64", "-accel", "kvm", "-m", "256", "-nodefaults", "-no-reboot",
               "-display", "none", "-kernel", guest.kernel, "-serial", "stdio",
               "-append", "console=ttyS0 panic=-1"]
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                              stderr=subprocess.DEVNULL) as qemu:
            deadline = time.monotonic() + PROBE_SECONDS
            while qemu.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            ended = qemu.poll() is not None
            qemu.kill()
        output.seek(0)
        return ended and b"Unable to mount root fs" in output.read()


@functools.lru_cache(maxsize=None)
def accelerator(guest):
    """The value of QEMU's -accel.  The environment's ACCEL (kvm or tcg) overrides the probe."""
    wanted = os.environ.get("ACCEL", "")
    if wanted:
        return TCG if wanted == "tcg" else wanted
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK) and _kernel_boots(guest)
    return "kvm" if usable else TCG
