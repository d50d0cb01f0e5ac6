"""Opens the TAP interface "made" and hands it to the other end of standard input."""
import fcntl
import os
import socket
import struct

IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, TUNSETIFF = 2, 0x1000, 0x4000, 0x400454ca

tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"made", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
socket.send_fds(socket.socket(fileno=0), [b"x"], [tun])
