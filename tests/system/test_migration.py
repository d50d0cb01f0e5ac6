"""Live migration of Debian guests between stock QEMUs, each with an Outboard of its own, under load:
disks with either kind of ring, and a network device whose TCP streams and pings go on."""
import os
import time

import pytest

from bed import MigrationLoad, MigrationWorld, wait_until
from bed.migration_world import LIMITS, MASKED, RINGS, SEED
from conftest import quiet, running

pytestmark = pytest.mark.vm

# How many migrations there and back of each world; "by hand" many more: see docs/migration.md.
ROUNDS = int(os.environ.get("MIGRATION_ROUNDS", "0"))
ANNOUNCED_SECONDS = 5
STOP_MS = 1000           # at most, of all a disk's queues together; a request takes 5 s
KILLS = int(os.environ.get("MIGRATION_KILLS", "3"))


@pytest.fixture(scope="module", name="world", params=["11.1", "7.2"])
def world_fixture(request):
    with running(MigrationWorld, request.param) as world:
        yield world


@pytest.fixture(autouse=True)
def quiet_kernel(world):
    with quiet(world):
        yield


@pytest.fixture(scope="module", name="load")
def load_fixture(request, world):
    """Over all tests of a world: what it finds at the end, it finds in each of them."""
    load = MigrationLoad(world)
    failed = request.session.testsfailed
    try:
        yield load.start()
        if request.session.testsfailed == failed:
            load.stop()
    finally:
        load.abandon()


def test_there_and_back(world, load):
    """If this fails, a guest that migrates loses data, requests or its connections."""
    for _ in range(ROUNDS or 4):
        world.migrate()
        load.wait_progress()
    report(world)
    for migration, _ in world.figures:
        assert any(migration.begun <= when <= migration.ended + ANNOUNCED_SECONDS
                   for when, kind in world.network.announcements()
                   if kind == LIMITS[world.version]["announces"]), "nobody knows the new place"


def test_slow_storage(world, load):
    """If this fails, requests that take long are lost when the guest leaves, or hold it for ever."""
    world.migrate(delay="ms=5000")
    with load.patient_reads():
        slow = world.here
        state = world.migrate()
    print(f"5 s per request: {state['total-time']} ms, down {state['downtime']} ms")
    if world.version == "11.1":  # 7.2 resets the device instead, which waits for what is in flight
        for ring in RINGS:
            check_stops(slow, ring)
    load.wait_progress()


# What is left in the region is what a ring cannot say: behind it something has come back.
@pytest.mark.parametrize("world", ["11.1"], indirect=True)
def test_requests_go_along(world, load):
    """If this fails, requests that wait are not taken along, or are not begun anew there."""
    world.migrate(delay="time=100ms&jitter=900ms", goes_along=True)
    with load.patient_reads():
        slow = world.here
        world.migrate(goes_along=True)
    for ring in RINGS:
        check_stops(slow, ring)
        left = slow.counters["migration", ring]["parked"]
        begun = resubmitted(world.here, ring)
        print(f"{ring}: {left} requests went along, {begun} were begun anew")
        assert 0 < left == begun
    load.wait_progress()


# QEMU 7.2 does not bring the guest back from the file within half a minute.
@pytest.mark.parametrize("world", ["11.1"], indirect=True)
def test_suspended(world, load):
    """If this fails, a guest cannot be kept in a file, or finds another disk or network then."""
    world.suspend()
    load.wait_progress()
    world.suspend()
    load.wait_progress()


def test_storage_daemon(world, load):
    """If this fails, a guest cannot come from qemu-storage-daemon, or cannot go back to it."""
    there = world.migrate(peer=True)
    load.wait_progress()
    back = world.migrate()
    load.wait_progress()
    for way, state in (("to", there), ("from", back)):
        print(f"{way} qemu-storage-daemon: {state['total-time']} ms, down {state['downtime']} ms")


def test_cancelled(world, load):
    """If this fails, a guest that was to go and stays is left with a log, or without its disks."""
    migration = world.prepare().start_slowly()
    migration.wait_under_way()
    migration.cancel()
    assert migration.wait()["status"] == "cancelled"
    world.stay()
    load.wait_progress()
    world.migrate()


def test_destination_dies(world, load):
    """If this fails, the end of a destination before the guest has left is the guest's end."""
    migration = world.prepare().start_slowly()
    migration.wait_under_way()
    world.there.vm.kill()
    assert migration.wait()["status"] == "failed"
    world.stay()
    load.wait_progress()


def test_fewer_features(world, load):
    """If this fails, a guest loses a feature that it uses on its way, and does not know."""
    migration = world.prepare(masked=f"{MASKED},-discard")
    assert migration.start().wait()["status"] == "failed"
    wait_until(lambda: not world.there.vm.running, 20, "the destination to refuse")
    assert "unsupported. Allowed features" in world.stay()
    load.wait_progress()


# QEMU 7.2 forgets what is in flight when a device ends while it is being stopped.
@pytest.mark.parametrize("world", ["11.1"], indirect=True)
def test_outboards_killed(world, load):
    """If this fails, a crash of either Outboard during a migration costs the guest data or its life."""
    print(f"seed {SEED}")
    for _ in range(KILLS):
        migration = world.prepare().start_slowly()
        victim = world.random.choice([world.here, world.there])
        role = "source" if victim is world.here else "destination"
        time.sleep(world.random.uniform(0, 2))
        killed = time.time() - migration.begun
        victim.restart_outboard()
        status = migration.wait()["status"]
        print(f"the {role}'s Outboard was killed at {killed:.2f} s of "
              f"{migration.ended - migration.begun:.2f} s: {status}")
        if status == "completed":
            migration.wait_resumed()
            world.arrive()
        else:
            world.stay()
        load.wait_progress()


def resubmitted(place, ring):
    return sum(values.get("resubmitted", 0)
               for (room, name), values in place.outboard.counters().items()
               if room == "virtqueue" and name.startswith(f"{ring}/"))


def check_stops(place, ring):
    """What waits in front of the storage does not hold the guest."""
    numbers = place.counters["migration", ring]
    print(f"{ring}: {numbers['quiesces']} stops of {numbers['quiesce_ns'] // 1000} us in all")
    assert numbers["quiesces"] and numbers["quiesce_ns"] < STOP_MS * 1000000
    assert not numbers.get("quiesces_refused")


def lost_pings(pings, since, until):
    """(how many were not answered, the longest silence in seconds) between two times."""
    near = [ping for ping in pings if since - 1 <= ping[0] <= until + 1]
    pairs = list(zip(near, near[1:]))
    return (sum(after[1] - before[1] - 1 for before, after in pairs),
            max((after[0] - before[0] for before, after in pairs), default=0))


def report(world):
    """One line for each migration: what docs/migration.md tells."""
    pings = world.network.pings()
    print("\nQEMU    total ms  downtime ms  MiB  passes  pings lost  silence ms")
    for migration, state in world.figures:
        lost, silence = lost_pings(pings, migration.begun, migration.ended)
        print(f"{world.version:7} {state['total-time']:8} {state['downtime']:12} "
              f"{state['ram']['transferred'] >> 20:4} "
              f"{state['ram']['dirty-sync-count']:7} {lost:11} {silence * 1000:11.0f}")
