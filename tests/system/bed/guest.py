"""The guest's kernel and root file system."""
import dataclasses
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Guest:
    """Lies in the cache and is never written: each user works on a copy of disk, or a snapshot."""
    kernel: str
    initrd: str
    disk: str

    @classmethod
    def make(cls):
        """Makes it if need be (scripts/make-guest-image tells its progress on stderr)."""
        made = subprocess.run([SOURCE / "scripts" / "make-guest-image"], check=True,
                              stdout=subprocess.PIPE, text=True)
        directory = pathlib.Path(made.stdout.strip().splitlines()[-1])
        return cls(str(directory / "vmlinuz"), str(directory / "initrd.img"),
                   str(directory / "disk.img"))

    def copy_disk(self, path):
        """A copy that may be written, sharing blocks where the file system can."""
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.disk, path], check=True)
        return str(path)
