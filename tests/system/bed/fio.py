"""fio command lines that notice a lost, repeated, torn or misplaced request."""

JOBS = 4
JOB_MEGABYTES = 48
# The verifying jobs' regions, and one more that is discarded and written in turn.
DISK_MEGABYTES = JOBS * JOB_MEGABYTES + JOB_MEGABYTES


def verifying(device, seconds, discards=True, jobs=JOBS, depth=32, megabytes=JOB_MEGABYTES,
              sizes="4k-256k"):
    """Random writes of these sizes by several jobs at depth 32, each block read again and
    compared with what was last written there: its header names the offset and the pass."""
    common = (f"--filename={device} --allow_file_create=0 --ioengine=libaio --direct=1 "
              f"--verify=crc32c --verify_fatal=1 "
              f"--time_based --runtime={seconds} --size={megabytes}m --bsrange={sizes} "
              f"--iodepth={depth} --verify_backlog=64 --randrepeat=0 --group_reporting --minimal "
              f"--name=writes --rw=randwrite --numjobs={jobs} --offset_increment={megabytes}m")
    if not discards:
        return f"fio {common}"
    return (f"fio {common} --name=discards --new_group --rw=randtrimwrite --numjobs=1 --iodepth=8 "
            f"--offset={jobs * megabytes}m --offset_increment=0")


def verifying_all(devices, seconds):
    """A script that does so on several devices at once."""
    start = [f"( {verifying(device, seconds)} ) >/run/load{number} 2>&1 & load{number}=$!"
             for number, device in enumerate(devices)]
    end = [f"wait $load{number} || {{ cat /run/load{number}; exit 1; }}"
           for number in range(len(devices))]
    return "\n".join(start + end)


def digest(device):
    """The checksum of the whole disk as the guest's disk gives it, past the page cache."""
    return f"dd if={device} bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1"
