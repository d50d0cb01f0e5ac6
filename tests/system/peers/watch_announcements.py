"""Prints a line for each frame by which a station of that address makes itself known to switches: the
time, and "rarp" or "arp" (a gratuitous one).

watch_announcements.py INTERFACE ADDRESS"""
import socket
import sys
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4


def kind_of(frame):
    ethertype = frame[12:14]
    if ethertype == b"\x80\x35":
        return "rarp"
    return "arp" if ethertype == b"\x08\x06" and frame[28:32] == frame[38:42] else None


def main():
    interface, address = sys.argv[1:]
    station = bytes.fromhex(address.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as listener:
        listener.bind((interface, 0))
        print("ready", flush=True)
        while True:
            frame, where = listener.recvfrom(2048)
            if frame[6:12] == station and where[2] != PACKET_OUTGOING and kind_of(frame):
                print(f"{time.time():.3f}", kind_of(frame), flush=True)


main()
