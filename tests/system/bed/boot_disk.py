"""A disk from which firmware of either kind boots the guest's kernel."""
import pathlib
import shutil
import subprocess
import tempfile

from .virtual_machine import kernel_command_line

MENU = """serial --unit=0
terminal_input serial
terminal_output serial
set timeout=0
linux /boot/vmlinuz {options}
initrd /boot/initrd.img
boot
"""


def make_boot_disk(guest, path):
    """GRUB for the old BIOS and for UEFI, with the guest's kernel; the root file system is on
    another disk."""
    with tempfile.TemporaryDirectory() as directory:
        boot = pathlib.Path(directory) / "boot"
        (boot / "grub").mkdir(parents=True)
        shutil.copy(guest.kernel, boot / "vmlinuz")
        shutil.copy(guest.initrd, boot / "initrd.img")
        (boot / "grub" / "grub.cfg").write_text(MENU.format(options=kernel_command_line()),
                                                encoding="utf-8")
        subprocess.run(["grub-mkrescue", "-o", path, directory], check=True, capture_output=True)
    return str(path)
