"""lock_server.py - an HTTP server whose threads share a lock, and that can be made to wait for it forever

GET /health answers "ok"; GET /N answers N octets, "0123456789" over and over, piece by piece over a second.
Each piece and each answer is written with the lock held. After SIGUSR1 a thread takes the lock and keeps it: the
process runs, accepts and reads, and says nothing any more. Answers depend on the request alone.

Usage: python3 lock_server.py PORT
"""

import http.server
import signal
import sys
import threading
import time

PIECES = 50
LOCK = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        length = 2 if self.path == "/health" else int(self.path[1:])
        with LOCK:
            self.send_response_only(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
        if self.path == "/health":
            with LOCK:
                self.wfile.write(b"ok")
            return
        content = (b"0123456789" * (length // 10 + 1))[:length]
        piece = length // PIECES + 1
        for at in range(0, length, piece):
            with LOCK:
                self.wfile.write(content[at : at + piece])
            time.sleep(1 / PIECES)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=LOCK.acquire).start())
Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
