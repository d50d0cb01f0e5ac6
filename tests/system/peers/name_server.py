"""A name server at the loopback address that knows one name: store.test is 10.1.2.3."""
import socket

link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("127.0.0.1", 53))
while True:
    query, sender = link.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    found = query[12:end].lower() == b"\x05store\x04test\0\0\x01\0\x01"
    answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + bytes([10, 1, 2, 3]) if found else b""
    link.sendto(query[:2] + b"\x81\x80\0\x01\0" + bytes([found]) + b"\0\0\0\0"
                + query[12:end] + answer, sender)
