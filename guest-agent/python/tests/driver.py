"""The host's side of the protocol: starts a real agent and speaks to it over real sockets."""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile

AGENT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "agent.py")
HEADER = struct.Struct("<IB3x")
DEADLINE = 30  # seconds; a lost answer fails a test instead of hanging it

HELLO, LOADED, LOAD_FAILED, RESULT, RAISED, LOG, CLOSED = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x11
LOAD, INVOKE, OPEN, CLOSE = 0x81, 0x82, 0x91, 0x92


class Connection:
    """A channel. LOG frames that come before an answer are kept in `log`, as (stream, text)."""

    def __init__(self, peer):
        self.peer = peer
        self.peer.settimeout(DEADLINE)
        self.log = []

    def send(self, kind, payload=b""):
        if isinstance(payload, dict):
            payload = json.dumps(payload).encode()
        self.peer.sendall(HEADER.pack(len(payload), kind) + payload)

    def frame(self):
        """The next frame, LOG or not; None at the end of file."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        length, kind = HEADER.unpack(header)
        return kind, self._exactly(length)

    def answer(self):
        """The next frame that is not LOG."""
        while (frame := self.frame()) and frame[0] == LOG:
            self.log.append((frame[1][0], frame[1][1:].decode()))
        return frame

    def printed(self, stream=1):
        return "".join(text for number, text in self.log if number == stream)

    def load(self, code, entry_point=None, tmp_dir="/tmp", max_result=1 << 20):
        self.send(LOAD, {
            "name": "test", "code": str(code), "entryPoint": entry_point, "tmpDir": tmp_dir, "maxResult": max_result, "later": 1,
        })
        kind, payload = self.answer()
        return (kind, json.loads(payload)) if payload else (kind, None)

    def invoke(self, text):
        """(RESULT, text) or (RAISED, report) for arguments given as text or as what JSON can hold."""
        text = text if isinstance(text, str) else json.dumps(text)
        self.send(INVOKE, text.encode())
        kind, payload = self.answer()
        return kind, payload.decode() if kind == RESULT else json.loads(payload)

    def close(self):
        self.peer.close()

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.peer.recv(count - len(data))
            if not more:
                return None
            data += more
        return data


def _start(mode):
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", AGENT, mode, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={},
    )
    theirs.close()
    return process, Connection(ours)


class FunctionAgent:
    """An agent in function mode; its one connection is ready for LOAD."""

    def __init__(self):
        self.process, self.connection = _start("--function")
        self.hello = self.connection.answer()

    def open(self):
        return self.connection

    def end(self):
        self.connection.close()
        try:
            return self.process.wait(DEADLINE)
        finally:
            self.process.kill()


class HostAgent:
    """An agent in host mode; `open` makes an isolate and gives its connection, ready for LOAD."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self._directory.name, "agents.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._listener.settimeout(DEADLINE)
        self.process, self.control = _start("--host")
        self.hello = self.control.answer()
        self._opened = 0
        self._connections = []

    def order(self, path=None):
        """Sends OPEN; returns the isolate's number."""
        self._opened += 1
        number = self._opened
        self.control.send(OPEN, {"isolate": number, "socket": path or self.path, "token": f"token {number}", "memory": 64})
        return number

    def accept(self):
        connection = Connection(self._listener.accept()[0])
        connection.hello = json.loads(connection.answer()[1])
        self._connections.append(connection)
        return connection

    def open(self):
        self.order()
        return self.accept()

    def shut(self, number):
        self.control.send(CLOSE, {"isolate": number})

    def closed(self):
        kind, payload = self.control.answer()
        assert kind == CLOSED, kind
        return json.loads(payload)

    def end(self):
        self.control.close()
        try:
            return self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            for connection in self._connections:
                connection.close()
            self._listener.close()
            self._directory.cleanup()
