"""token_server.py - what token_server.ts does, in a language whose chance libfaketime reaches

A process for each connection, forked from one that has drawn its own digits: so what a connection is
told follows from the seed alone, whatever other connections do. The time of day goes into the digits.

Usage: python3 token_server.py PORT
"""

import secrets
import socket
import socketserver
import sys
import time


def digits(count):
    return f"{secrets.randbits(64) ^ time.time_ns():016x}"[:count]


OWN = digits(15)


class Answerer(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        for request in self.rfile:
            answer = f"{OWN}{digits(16)}\n" * int(request)
            self.wfile.write(answer.encode())


class Server(socketserver.ForkingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 128


with Server(("::", int(sys.argv[1])), Answerer) as server:
    server.serve_forever()
