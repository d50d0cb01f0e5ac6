"""Usage: ask_tagged.py INTERFACE N

Asks by ARP, in a frame with tag 5, who has 10.25.N.2, and waits for an answer with that tag: the
kernel may have no VLAN interfaces.
"""
import socket
import struct
import sys

name, number = sys.argv[1], int(sys.argv[2])
SOL_PACKET, PACKET_AUXDATA, ARP = 263, 8, bytes.fromhex("0001080006040001")
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
link.bind((name, 3))
link.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
link.settimeout(5)
mac = link.getsockname()[4]
link.send(b"\xff" * 6 + mac + bytes.fromhex("810000050806") + ARP + mac
          + bytes([10, 25, number, 1]) + bytes(6) + bytes([10, 25, number, 2]) + bytes(14))
while True:
    frame, extra, _, _ = link.recvmsg(2048, 256)
    tags = [struct.unpack("16xHH", data[:20])[0] for _, kind, data in extra if kind == PACKET_AUXDATA]
    if frame[12:14] == b"\x81\0":
        tags, frame = [struct.unpack(">H", frame[14:16])[0]], frame[:12] + frame[16:]
    if frame[:6] == mac and frame[20:22] == b"\0\2" and tags == [5]:
        print("answer from", *frame[28:32])
        break
