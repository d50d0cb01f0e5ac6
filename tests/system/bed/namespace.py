"""Network namespaces of a test's own: each stands for a host."""
import os
import subprocess


class Unavailable(Exception):
    """This machine cannot do it."""


class Namespace:
    """Its name is of this process and no other; end() removes it with all that is in it."""

    def __init__(self, label="host"):
        self.name = f"outboard-{os.getpid()}-{label}"
        self.prefix = ("ip", "netns", "exec", self.name)
        try:
            subprocess.run(["ip", "netns", "add", self.name], check=True, capture_output=True,
                           text=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"no network namespaces here: {error.stderr}") from error
        self.ip("link set lo up")

    def run(self, *arguments, timeout=60):
        """Its standard output; the program must succeed."""
        done = subprocess.run([*self.prefix, *arguments], check=False, capture_output=True,
                              text=True, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr}"
        return done.stdout

    def ip(self, *lines):
        for line in lines:
            self.run("ip", *line.split())

    def end(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False)
