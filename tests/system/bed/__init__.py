"""The test bed: real servers, Outboard and real virtual machines, each an object that ends what it
started by its own process id.  Used by the system tests and by scripts/run-vm."""
from . import fio
from .accelerator import accelerator
from .guest import Guest
from .nbd_server import NbdServer, QemuNbdServer
from .outboard import Outboard
from .process import Process, cpu_ticks, wait_until
from .qmp import QmpError
from .report import Sums, report_lines
from .virtual_machine import Disk, VirtualMachine

__all__ = ["Disk", "Guest", "NbdServer", "Outboard", "Process", "QemuNbdServer",
           "QmpError", "Sums", "VirtualMachine",
           "accelerator", "cpu_ticks", "fio", "report_lines", "wait_until"]
