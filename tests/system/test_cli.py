"""The program as its user meets it: help, mistakes, signals, an orderly end.

Needs no virtual machine and no privilege.  If one of these failed, a user would be told something
wrong or nothing at all, or a manager could not start, find or end the program."""
import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import time

import pytest

from small_driver import FLUSH_REQUEST, READ_REQUEST, WRITE_REQUEST, SmallDriver

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.path.abspath(os.environ.get("OUTBOARD") or os.environ.get("OUTBOARD_PROGRAM") or
                          SOURCE / "build" / "src" / "outboard")
NULL = "null:?size=1G"


def run(*arguments, program=PROGRAM, **options):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True,
                          timeout=20, check=False, **options)


def output_of(*arguments):
    result = run(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def wait_for(condition, process=None, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "ended early"
        time.sleep(0.01)


class Running:
    """The program in the background; ends with the test."""

    def __init__(self, directory, *arguments, **options):
        self.files = [directory / "stdout", directory / "stderr"]
        with open(self.files[0], "wb") as out, open(self.files[1], "wb") as errors:
            self.process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=out,
                                            stderr=errors, **options)

    def stdout(self):
        return self.files[0].read_text()

    def stderr(self):
        return self.files[1].read_text()

    def wait_ready(self, path):
        """Bound is not yet listening: it says when a client may connect."""
        wait_for(lambda: f"vhost-user on {path}\n" in self.stderr(), self.process)
        return self

    def end(self, number=signal.SIGTERM, seconds=2):
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextlib.contextmanager
def running(directory, *arguments, **options):
    program = Running(directory, *arguments, **options)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


# ---- what it says about itself ----

def options_of(text):
    """{"--queues": ("N", the help behind it)} of a help text."""
    found = {}
    for match in re.finditer(r"^  (--[a-z-]+)(?: ([A-Z]+))?\s+((?:.|\n {24})*)", text, re.M):
        found[match[1]] = (match[2], " ".join(match[3].split()))
    return found


def manual_options():
    text = (SOURCE / "docs" / "outboard.1.scd").read_text()
    section = re.search(r"^# OPTIONS\n(.*?)^# ", text, re.M | re.S)[1]
    found = {}
    for match in re.finditer(r"^\*(--[a-z-]+)\*(?: _([A-Z]+)_)?\n((?:\t.*\n)+)", section, re.M):
        found[match[1]] = (match[2], " ".join(match[3].split()))
    return found


def config_keys():
    """{"queues"}: of the outermost object, and of a device."""
    outer, inner = output_of("help", "config").split("Keys of a device:")
    outer = outer.split("Keys of the object:")[1]
    keys = r"^  ([a-z-]+)\s"
    return set(re.findall(keys, outer, re.M)), set(re.findall(keys, inner, re.M))


def test_help_is_there():
    assert "Usage: outboard COMMAND" in output_of("--help")
    assert output_of("help") == output_of("--help")
    assert output_of("help", "blk") == output_of("blk", "--help")
    assert output_of("help", "serve") == output_of("serve", "--help")
    assert "file" in output_of("help", "disks")
    assert "vxlan" in output_of("help", "ports")
    for topic in ("blk", "net", "serve", "config"):
        assert max(map(len, output_of("help", topic).splitlines())) <= 80


def test_version():
    assert re.fullmatch(r"outboard \d+\.\d+\.\d+\n", output_of("--version"))
    assert output_of("blk", "--version") == output_of("--version")


def test_every_option_is_in_the_manual_and_nothing_else():
    blk, net, serve = (options_of(output_of(name, "--help")) for name in ("blk", "net", "serve"))
    manual = manual_options()
    assert len(blk) > 15 and len(net) > 15 and len(serve) > 5
    assert set(manual) == set(blk) | set(net) | set(serve)
    for name, (value, text) in {**blk, **net, **serve}.items():
        assert manual[name][0] == value, name
        limits = re.search(r"\(([^()]*(?:\.\.|default)[^()]*)\)$", text)
        if limits:
            assert all(f"({part}" in manual[name][1] or f", {part}" in manual[name][1]
                       for part in limits[1].split(", ")), (name, limits[1])


def test_configuration_keys_are_options_and_in_the_manual():
    outer, inner = config_keys()
    blk = {name[2:] for kind in ("blk", "net") for name in options_of(output_of(kind, "--help"))}
    serve = {name[2:] for name in options_of(output_of("serve", "--help"))}
    actions = {"help", "version", "print-capabilities"}
    assert outer - {"devices"} == serve - actions - {"config"}
    assert (outer | inner) - {"devices", "type"} == blk - actions - {"blk-file"}
    text = (SOURCE / "docs" / "outboard.1.scd").read_text()
    section = re.search(r"^# CONFIGURATION FILE\n(.*?)^# ", text, re.M | re.S)[1]
    marked = set(re.findall(r"\*([a-z-]+)\*", section)) - {"true", "false"}
    assert marked == outer | inner


def test_every_disk_option_is_in_the_manual_and_nothing_else():
    text = (SOURCE / "docs" / "outboard.1.scd").read_text()
    section = re.search(r"^# DISKS\n(.*?)^# ", text, re.M | re.S)[1]
    section = re.sub(r"```.*?```", "", section, flags=re.S)
    printed = output_of("help", "disks")
    assert set(re.findall(r"\*([a-z-]+)=\*", section)) == \
        set(re.findall(r"^    ([a-z-]+)=", printed, re.M))
    schemes = " ".join(re.findall(r"^([a-z+ ]+?)(?:\+|:)  ", printed, re.M)).split()
    assert len(schemes) >= 8
    assert set(re.findall(r"\*([a-z]+(?:\+unix)?)[:+]\*", section)) == set(schemes)


def test_example_in_the_manual_is_valid_json():
    text = (SOURCE / "docs" / "outboard.1.scd").read_text()
    section = re.search(r"^# CONFIGURATION FILE\n(.*?)^# ", text, re.M | re.S)[1]
    example = json.loads(re.search(r"```\n(.*?)```", section, re.S)[1])
    outer, inner = config_keys()
    assert set(example) <= outer
    assert all(set(device) <= inner for device in example["devices"])


# ---- conventions for vhost-user back-end programs (QEMU, docs/interop/vhost-user.rst) ----

def test_capabilities(tmp_path):
    link = tmp_path / "outboard-blk"
    link.symlink_to(PROGRAM)
    expected = {"type": "block", "features": ["read-only", "blk-file"]}
    assert json.loads(output_of("blk", "--print-capabilities")) == expected
    result = run("--socket-path", "/nowhere/x", "--nonsense", "--print-capabilities", program=link)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == expected


def test_description_file():
    template = (SOURCE / "packaging" / "50-outboard-blk.json.in").read_text()
    description = json.loads(template)
    assert set(description) == {"description", "type", "binary"}
    assert description["type"] == "block"
    assert description["binary"].endswith("/outboard-blk")


def test_called_as_outboard_blk(tmp_path):
    link = tmp_path / "outboard-blk"
    link.symlink_to(PROGRAM)
    result = run("--help", program=link)
    assert result.stdout == output_of("blk", "--help")


def test_blk_file(tmp_path):
    disk, path = tmp_path / "a disk 100%?.img", tmp_path / "s"
    disk.write_bytes(bytes(1 << 20))
    with running(tmp_path, "blk", "--blk-file", disk, "--socket-path", path) as program:
        program.wait_ready(path)
        wait_for(lambda: "1.0 MiB" in program.stderr(), program.process)
        assert program.end() == 0


# ---- mistakes ----

def fails(status, text, *arguments, **options):
    result = run(*arguments, **options)
    assert result.returncode == status, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("outboard: error: ")
    assert text in lines[0]
    if status == 2:
        assert 'see "outboard ' in lines[0]
    return lines[0]


@pytest.mark.parametrize("text, arguments", [
    ("a command is missing", []),
    ("frobnicate: no such command", ["frobnicate"]),
    ("help nothing: no such topic", ["help", "nothing"]),
    ("--disk is missing", ["blk"]),
    ("--disk is missing", ["blk", "--socket-path", "/tmp/x"]),
    ("--socket-path, --vfio-user or --fd is missing", ["blk", "--disk", NULL]),
    ("--queues 0: must be 1..64", ["blk", "--queues", "0"]),
    ("--workers 65: must be 1..64", ["blk", "--workers=65"]),
    ("--queue-size 100: must be a power of two, 2..32768", ["blk", "--queue-size", "100"]),
    ("--block-size 1000: must be a power of two, 512..65536", ["blk", "--block-size", "1000"]),
    ("--poll-us x: must be a whole number", ["blk", "--poll-us", "x"]),
    ("--socket-path: needs a value", ["blk", "--socket-path"]),
    ("must be shorter than 108 bytes", ["blk", "--socket-path", "/" + "x" * 107]),
    ("--fd cannot go with --socket-path", ["blk", "--disk", NULL, "--fd", "3",
                                           "--socket-path", "/tmp/x"]),
    ("--vfio-user cannot go with --socket-path", ["blk", "--disk", NULL, "--vfio-user", "/tmp/x",
                                                  "--socket-path", "/tmp/y"]),
    ("--card needs --vfio-user", ["blk", "--disk", NULL, "--card", "c", "--fd", "3"]),
    ("--packed maybe: must be one of on, off", ["blk", "--packed", "maybe"]),
    ('--features: "nosuch" is no feature of this device; known: barrier, size_max, ',
     ["blk", "--disk", NULL, "--fd", "0", "--features=-packed,-nosuch"]),
    ('write_zeroes, lifetime, secure_erase, zoned, notify_on_empty, any_layout, ',
     ["blk", "--disk", NULL, "--fd", "0", "--features=-guest_tso4"]),
    ('--features: "flsh" is no feature of this device; known: csum, ',
     ["net", "--port", "null:", "--fd", "0", "--features=only:csum,flsh"]),
    ("standby, speed_duplex", ["net", "--port", "null:", "--fd", "0", "--features=-flush"]),
    ('--features: "packed": write -NAME,... or only:NAME,...',
     ["blk", "--disk", NULL, "--fd", "0", "--features=packed"]),
    ("version_1 cannot be left out", ["blk", "--disk", NULL, "--fd", "0",
                                      "--features=-mq,-version_1"]),
    ("only: mq: requires a feature that is not listed",
     ["net", "--port", "null:", "--fd", "0", "--features=only:mq,mac"]),
    ('"": write -NAME,...', ["blk", "--disk", NULL, "--fd", "0", "--features=-mq,"]),
    ("--log-level loud: must be one of", ["serve", "--log-level", "loud"]),
    ("--config is missing", ["serve"]),
    ("--disk: no such option", ["serve", "--disk", NULL]),
])
def test_usage_errors(text, arguments):
    fails(2, text, *arguments)


@pytest.mark.parametrize("text, arguments", [
    ("device vda: features: ro is needed: the disk is read-only",
     ["--read-only", "--features=only:mq"]),
    ("device vda: features: blk_size is needed: blocks of 4096 bytes",
     ["--block-size", "4096", "--features=-blk_size"]),
])
def test_features_that_a_disk_needs(tmp_path, text, arguments):
    fails(1, text, "blk", "--disk", NULL, "--socket-path", tmp_path / "s", *arguments)


@pytest.mark.parametrize("text, disk", [
    ("disk vda: file:/nonexistent/disk: No such file or directory", "file:/nonexistent/disk"),
    ("disk vda: ", "file:/"),
    ("disk vda: ", "nosuch:thing"),
    ("disk vda: ", "null:?size=1G&nosuch=1"),
    ("disk vda: ", "nbd+unix:///?socket=/nonexistent/nbd.sock"),
])
def test_disk_that_cannot_be_had(tmp_path, text, disk):
    path = tmp_path / "s"
    fails(1, text, "blk", "--disk", disk, "--socket-path", path)
    assert not path.exists()


def test_socket_that_cannot_be_had(tmp_path):
    fails(1, "No such file or directory", "blk", "--disk", NULL,
          "--socket-path", tmp_path / "missing" / "s")
    plain = tmp_path / "plain"
    plain.write_text("precious")
    fails(1, str(plain), "blk", "--disk", NULL, "--socket-path", plain)
    assert plain.read_text() == "precious"
    fails(1, "device vda: fd 77: Bad file descriptor", "blk", "--disk", NULL, "--fd", "77")
    fails(1, "device vda: fd 0: ", "blk", "--disk", NULL, "--fd", "0", stdin=subprocess.DEVNULL)


def test_socket_in_use(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path) as program:
        program.wait_ready(path)
        fails(1, str(path), "blk", "--disk", NULL, "--socket-path", path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert program.end() == 0


def test_help_that_cannot_be_written():
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run([PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=20, check=False)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("text, place, complaint", [
    ("{\n  \"devices\": [ }\n", ":2:", ""),
    ("{\n  \"devices\": [],\n  \"devices\": [] }\n", ":3:", "duplicate"),
    ("{\n  \"devices\": [\n    { \"type\": \"blk\",\n      \"quues\": 1 } ] }\n", ":4:7: ",
     "devices[0]: quues is not a known key"),
])
def test_wrong_configuration(tmp_path, text, place, complaint):
    path = tmp_path / "c.json"
    path.write_text(text)
    line = fails(1, f"{path}{place}", "serve", "--config", path)
    assert complaint in line


def test_configuration_that_cannot_be_read(tmp_path):
    fails(1, "No such file or directory", "serve", "--config", tmp_path / "nothing")
    fails(1, "Is a directory", "serve", "--config", tmp_path)


# ---- life and end ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_orderly_end(tmp_path, number):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path) as program:
        program.wait_ready(path)
        wait_for(lambda: "serving vhost-user on" in program.stderr(), program.process)
        assert program.stderr() == f"outboard: info: vda: 1.0 GiB, serving vhost-user on {path}\n"
        assert program.end(number) == 0
        assert not path.exists()
        assert program.stdout() == ""


def test_end_with_a_client(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path) as program:
        program.wait_ready(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            time.sleep(0.1)
            assert program.end() == 0
        assert not path.exists()


def test_end_while_a_disk_keeps_it_waiting(tmp_path):
    server = tmp_path / "nbd"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server))
        silent.listen()
        silent.settimeout(10)
        with running(tmp_path, "blk", "--disk", f"nbd+unix:///?socket={server}",
                     "--socket-path", tmp_path / "s") as program:
            client, _ = silent.accept()
            with client:
                time.sleep(0.1)
                assert program.end() == 0
        assert not (tmp_path / "s").exists()


def test_inherited_socket(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with running(tmp_path, "blk", "--disk", NULL, "--fd", listener.fileno(),
                     pass_fds=[listener.fileno()]) as program:
            wait_for(lambda: "serving vhost-user on fd" in program.stderr(), program.process)
            assert program.end() == 0


def test_statistics(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path, "--stats", "--name", "d",
                 "--workers", "2") as program:
        program.wait_ready(path)
        program.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: "peak_rss_bytes" in program.stderr(), program.process)
        assert program.end() == 0
        for text in (program.stderr(), program.stdout()):
            assert re.search(r"^device d requests 0$", text, re.M)
            assert re.search(r"^device d interrupts 0$", text, re.M)
            assert re.search(r"^thread control cpu_ns \d+$", text, re.M)
            assert re.search(r"^thread worker1 cpu_ns \d+$", text, re.M)
            assert int(re.search(r"^process outboard cpu_ns (\d+)$", text, re.M)[1]) > 0
            assert int(re.search(r"^process outboard peak_rss_bytes (\d+)$", text, re.M)[1]) > 1e6


def test_requests_are_counted(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", "memory:?size=1M", "--socket-path", path,
                 "--stats") as program:
        program.wait_ready(path)
        with SmallDriver(path) as driver:
            assert [driver.run(kind) for kind in
                    (WRITE_REQUEST, READ_REQUEST, READ_REQUEST, FLUSH_REQUEST)] == [0, 0, 0, 0]
            assert driver.run(READ_REQUEST, sector=1 << 40) == 1
        assert program.end() == 0
        found = dict(re.findall(r"^(\w+ \w+ \w+) (\d+)$", program.stdout(), re.M))
        assert found["device vda requests"] == "5"
        assert found["device vda bytes"] == str(3 * 4096)
        assert 1 <= int(found["device vda interrupts"]) <= 10
        assert int(found["process outboard cpu_ns_per_request"]) == \
            int(found["process outboard cpu_ns"]) // 5
        assert re.search(r"^latency vda read p50_ns=\d+ ", program.stdout(), re.M)


def test_link_model_takes_its_time(tmp_path):
    """If this fails, the bus that a user asked for is not there, or loses what it carries."""
    seconds = {}
    for latency in "0ns", "30ms":
        path = tmp_path / latency
        with running(tmp_path, "blk", "--disk", "memory:?size=1M", "--socket-path", path,
                     "--link-model", f"latency={latency}") as program:
            program.wait_ready(path)
            with SmallDriver(path) as driver:
                start = time.monotonic()
                assert [driver.run(kind) for kind in (WRITE_REQUEST, READ_REQUEST)] == [0, 0]
                seconds[latency] = time.monotonic() - start
            assert program.end() == 0
    # Each request is fetched and answered at least: two latencies.
    assert seconds["0ns"] < 0.12 <= seconds["30ms"]


def test_end_waits_for_requests(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", "delay+null:?size=1M&time=1s",
                 "--socket-path", path) as program:
        program.wait_ready(path)
        with SmallDriver(path) as driver:
            driver.submit(READ_REQUEST)
            time.sleep(0.3)
            assert program.end() == 0
            assert driver.wait(0) == 0


def test_end_is_bounded(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", "delay+null:?size=1M&time=600s",
                 "--socket-path", path, "--stats") as program:
        program.wait_ready(path)
        with SmallDriver(path) as driver:
            driver.submit(READ_REQUEST)
            time.sleep(0.3)
            assert program.end(seconds=8) == 1
        assert "vda" in program.stderr().splitlines()[-1]
        assert "giving up" in program.stderr().splitlines()[-1]
        assert re.search(r"^process outboard cpu_ns ", program.stdout(), re.M)


def test_second_signal_ends_at_once(tmp_path):
    path = tmp_path / "s"
    with running(tmp_path, "blk", "--disk", "delay+null:?size=1M&time=600s",
                 "--socket-path", path) as program:
        program.wait_ready(path)
        with SmallDriver(path) as driver:
            driver.submit(READ_REQUEST)
            time.sleep(0.3)
            program.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert program.process.poll() is None
            assert program.end() == 128 + signal.SIGTERM


def test_restart_right_after_a_kill(tmp_path):
    """The socket of a killed process may take connections a little longer than the process lives."""
    path = tmp_path / "s"
    for _ in range(30):
        with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path) as program:
            program.wait_ready(path)
            program.process.kill()
            program.process.wait()


def test_descriptor_limit_is_raised(tmp_path):
    path = tmp_path / "s"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path) as program:
        program.wait_ready(path)
        assert resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)[0] == hard
    with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path, preexec_fn=lambda:
                 resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))) as program:
        program.wait_ready(path)
        assert resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE) == (128, 128)
        assert program.end() == 0


def test_resize(tmp_path):
    disk, path = tmp_path / "disk", tmp_path / "s"
    disk.write_bytes(bytes(1 << 20))
    with running(tmp_path, "blk", "--disk", f"file:{disk}", "--socket-path", path) as program:
        program.wait_ready(path)
        os.truncate(disk, 2 << 20)
        program.process.send_signal(signal.SIGHUP)
        wait_for(lambda: str(2 << 20) in program.stderr(), program.process)
        assert program.end() == 0


def configuration(directory, **more):
    path = directory / "c.json"
    devices = [{"type": "blk", "name": name, "disk": NULL, "socket-path": str(directory / name)}
               for name in ("vda", "vdb", "vdc")]
    path.write_text(json.dumps({"devices": devices, **more}))
    return path


def test_serve(tmp_path):
    path = configuration(tmp_path, stats=True, workers=2)
    with running(tmp_path, "serve", "--config", path, "--workers", "3") as program:
        program.wait_ready(tmp_path / "vdc")
        assert (tmp_path / "vda").exists() and (tmp_path / "vdb").exists()
        assert program.end() == 0
        output = program.stdout()
        assert re.findall(r"^device (\w+) requests", output, re.M) == ["vda", "vdb", "vdc"]
        assert re.findall(r"^thread (\w+) ", output, re.M) == \
            ["control", "worker0", "worker1", "worker2"]
        assert sorted(os.listdir(tmp_path)) == ["c.json", "stderr", "stdout"]


def test_half_a_start_leaves_nothing(tmp_path):
    path = configuration(tmp_path)
    (tmp_path / "vdb").mkdir()
    fails_after = run("serve", "--config", path)
    assert fails_after.returncode == 1
    assert f"device vdb: " in fails_after.stderr.splitlines()[-1]
    assert sorted(os.listdir(tmp_path)) == ["c.json", "vdb"]


def test_service_manager_is_told(tmp_path):
    path, manager = tmp_path / "s", tmp_path / "manager"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(manager))
        listener.settimeout(10)
        with running(tmp_path, "blk", "--disk", NULL, "--socket-path", path,
                     env={**os.environ, "NOTIFY_SOCKET": str(manager)}) as program:
            assert listener.recv(100) == b"READY=1"
            assert path.exists()
            assert program.end() == 0
            assert listener.recv(100) == b"STOPPING=1"
