"""A paced TCP stream each way, at two ports: sends at the first until its standard input ends,
receives at the second until the other side ends.  Prints the checksum of what each was.

stream.py ADDRESS PORT PORT"""
import hashlib
import random
import select
import socket
import sys
import threading

CHUNK_BYTES = 65536
PAUSE_SECONDS = 0.05


def tell(what, digest):
    print(what, digest.hexdigest(), flush=True)


def send(server):
    connection, _ = server.accept()
    numbers = random.Random(2026)
    digest = hashlib.sha256()
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        data = numbers.randbytes(CHUNK_BYTES)
        connection.sendall(data)
        digest.update(data)
    connection.close()
    tell("sent", digest)


def receive(server):
    connection, _ = server.accept()
    digest = hashlib.sha256()
    while data := connection.recv(CHUNK_BYTES):
        digest.update(data)
    tell("received", digest)


def main():
    address, *ports = sys.argv[1:]
    servers = [socket.create_server((address, int(port))) for port in ports]
    print("ready", flush=True)
    threads = [threading.Thread(target=work, args=(server,))
               for work, server in zip((send, receive), servers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
