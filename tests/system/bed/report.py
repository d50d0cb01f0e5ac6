"""Outboard's statistics as a page for people."""

KINDS = {  # the counter, and the kind's name in the latency lines; where its bytes are counted
    "reads": ("read", "bytes_read"),
    "writes": ("write", "bytes_written"),
    "flushes": ("flush", None),
    "discards": ("discard", "bytes_discarded"),
    "write_zeroes": ("write_zeroes", "bytes_zeroed"),
    "get_ids": ("get_id", None),
    "refused": (None, None),
}


def parse_latencies(text, device):
    """{kind: {percentile: nanoseconds}} from "latency DEVICE KIND p50_ns=... p99_ns=..." lines."""
    latencies = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[:2] == ["latency", device]:
            pairs = (word.split("=", 1) for word in words[3:])
            latencies[words[2]] = {key[:-len("_ns")]: int(value) for key, value in pairs}
    return latencies


class Sums:
    """Counters of one device, summed over its queues ("vda/0", "vda/1")."""

    def __init__(self, counters, device):
        self.counters = counters
        self.device = device

    def get(self, room, counter):
        return sum(values.get(counter, 0) for (of_room, name), values in self.counters.items()
                   if of_room == room and name.split("/")[0] == self.device)

    def rooms_other_than(self, *rooms):
        return sorted({room for room, name in self.counters
                       if room not in rooms and name.split("/")[0] == self.device})

    def of_room(self, room):
        names = {counter for (of_room, name), values in self.counters.items() for counter in values
                 if of_room == room and name.split("/")[0] == self.device}
        return {counter: self.get(room, counter) for counter in sorted(names)}


def microseconds(nanoseconds):
    return "-" if nanoseconds is None else f"{nanoseconds / 1000:,.1f}"


def request_lines(sums, latencies):
    yield f"{'requests':14}{'count':>10}{'MiB':>10}{'p50 us':>10}{'p99 us':>10}{'p99.9 us':>11}"
    for counter, (kind, byte_counter) in KINDS.items():
        count = sums.get("blk", counter)
        if not count:
            continue
        latency = latencies.get(kind, {})
        megabytes = f"{sums.get('blk', byte_counter) / 2**20:,.1f}" if byte_counter else "-"
        yield (f"{counter:14}{count:>10,}{megabytes:>10}{microseconds(latency.get('p50')):>10}"
               f"{microseconds(latency.get('p99')):>10}{microseconds(latency.get('p99.9')):>11}")


def per_request(value, requests):
    return f"{value / requests:,.2f} per request" if requests else "-"


def summary_lines(sums, counters):
    requests = sum(sums.get("blk", counter) for counter in KINDS)
    sent, kept = (sums.get("virtqueue", f"interrupts_{how}") for how in ("sent", "suppressed"))
    transfers = sum(sums.get("link", f"{purpose}_{direction}") for purpose in ("ring", "payload")
                    for direction in ("reads", "writes"))
    process = counters.get(("process", "outboard"), {})
    cpu = process.get("cpu_ns", 0)
    yield f"interrupts        {sent:,} sent ({per_request(sent, requests)}), {kept:,} suppressed"
    yield f"notifications     {sums.get('virtio', 'kicks'):,}"
    yield (f"polls             {sums.get('virtio', 'polls_found'):,} found work, "
           f"{sums.get('virtio', 'polls_vain'):,} did not")
    yield f"link transfers    {transfers:,} ({per_request(transfers, requests)})"
    yield (f"CPU time          {cpu / 1e9:.3f} s, "
           f"{cpu / 1000 / requests if requests else 0:.2f} us per request")
    yield (f"resident memory   {process.get('peak_rss_bytes', 0) / 2**20:.1f} MiB at most, with "
           "those pages of the guest's memory that it touched")
    yield f"errors            {sums.get('blk', 'errors'):,}"


def report_lines(text, counters, device="vda"):
    sums = Sums(counters, device)
    yield from request_lines(sums, parse_latencies(text, device))
    yield from summary_lines(sums, counters)
    for room in sums.rooms_other_than("blk", "virtqueue", "virtio", "link", "device"):
        numbers = ", ".join(f"{counter} {value:,}" for counter, value in sums.of_room(room).items())
        yield f"{room:18}{numbers}"
