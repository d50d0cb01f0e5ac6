"""The test bed: real servers, Outboard and real virtual machines, each an object that ends what it
started by its own process id.  Used by the system tests and by scripts/run-vm."""
from . import fio
from .accelerator import accelerator
from .boot_disk import make_boot_disk
from .guest import Guest
from .migration import Migration, Suspension
from .migration_load import MigrationLoad
from .migration_world import MigrationWorld
from .namespace import Namespace, Unavailable
from .nbd_server import NbdServer, QemuNbdServer
from .open_vswitch import OpenVSwitch
from .outboard import Outboard
from .process import Process, cpu_ticks, wait_until
from .qmp import QmpError
from .report import Sums, report_lines
from .storage_daemon import StorageDaemon
from .virtual_machine import (QEMU, Disk, Nic, PciDisk, VirtualMachine, qemu_version,
                              vfio_user_qemu)

__all__ = ["Disk", "Guest", "Migration", "MigrationLoad", "MigrationWorld",
           "Namespace", "NbdServer", "Nic", "OpenVSwitch", "Outboard", "PciDisk", "Process", "QEMU",
           "QemuNbdServer", "QmpError", "StorageDaemon", "Sums", "Suspension", "Unavailable", "VirtualMachine",
           "accelerator", "cpu_ticks", "fio", "make_boot_disk", "qemu_version",
           "report_lines", "vfio_user_qemu",
           "wait_until"]
