"""Hydra's side of the agent protocol, for tests: starts a real agent process and speaks frames with it."""
import json
import os
import socket
import struct
import subprocess
import tempfile

HELLO, LOADED, LOAD_FAILED, RESULT, RAISED, LOG, CLOSED = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x11
LOAD, INVOKE, OPEN, CLOSE = 0x81, 0x82, 0x91, 0x92

JAVA = os.environ.get("HYDRA_TEST_JAVA", "java")
#: Where build.sh put the agent.
AGENT = os.environ["HYDRA_TEST_AGENT"]
with open(os.path.join(AGENT, "flags.json"), encoding="utf-8") as file:
    FLAGS = json.load(file)["flags"]
TIMEOUT = 20


class Channel:
    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(TIMEOUT)
        self.buffer = b""

    def send(self, kind, payload=b""):
        if isinstance(payload, (dict, list)):
            payload = json.dumps(payload)
        if isinstance(payload, str):
            payload = payload.encode()
        self.sock.sendall(struct.pack("<IB3x", len(payload), kind) + payload)

    def receive(self):
        """The next frame as (kind, payload), or None at the end."""
        if not self._fill(8):
            return None
        length, kind, zeros = struct.unpack("<IB3s", self.buffer[:8])
        assert zeros == b"\0\0\0", zeros
        assert self._fill(8 + length), "the channel ended within a frame"
        payload, self.buffer = self.buffer[8:8 + length], self.buffer[8 + length:]
        return kind, payload

    def _fill(self, count):
        parts, have = [self.buffer], len(self.buffer)
        while have < count:
            data = self.sock.recv(max(65536, min(count - have, 1 << 20)))
            if not data:
                return False
            parts.append(data)
            have += len(data)
        self.buffer = b"".join(parts)
        return True

    def expect(self, kind):
        frame = self.receive()
        assert frame is not None, f"the channel ended, expected kind {kind:#x}"
        assert frame[0] == kind, f"expected kind {kind:#x}, got {frame[0]:#x}: {frame[1][:2000]!r}"
        return frame[1]

    def load(self, code, entry=None, tmp="/tmp", max_result=64 << 20, name="test"):
        """Loads, and returns (kind, payload, logs)."""
        self.send(LOAD, {"name": name, "code": code, "entryPoint": entry, "tmpDir": tmp, "maxResult": max_result})
        return self.answer()

    def invoke(self, arguments=b""):
        self.send(INVOKE, arguments)
        return self.answer()

    def answer(self):
        """The next frame that is not LOG: its kind, its payload (decoded), and the text logged before, by stream."""
        logs = {1: "", 2: ""}
        while True:
            frame = self.receive()
            assert frame is not None, f"the channel ended, logs were {logs}"
            kind, payload = frame
            if kind == LOG:
                logs[payload[0]] += payload[1:].decode("utf-8")
                assert 1 < len(payload) <= 65537, len(payload)
            else:
                text = payload.decode("utf-8")
                return kind, json.loads(text) if kind in (LOAD_FAILED, RAISED) else text, logs


class Process:
    def __init__(self, mode, heap, flags):
        flags = [flag.format(agent=AGENT, heap=heap) for flag in FLAGS["both"] + FLAGS[mode]] + list(flags)
        ours, theirs = socket.socketpair()
        self.stray = tempfile.TemporaryFile()
        with theirs:
            self.process = subprocess.Popen(
                [JAVA, *flags, "-cp", f"{AGENT}/hydra-agent.jar", "hydra.agent.Main", f"--{mode}", str(theirs.fileno())],
                env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=self.stray, stderr=self.stray)
        self.channel = Channel(ours)

    @property
    def pid(self):
        return self.process.pid

    def strays(self):
        """What the process wrote to its own standard output and error."""
        self.stray.seek(0)
        return self.stray.read().decode("utf-8", "replace")

    def close(self):
        """Ends the agent as Hydra does, and returns its exit status."""
        self.channel.sock.close()
        try:
            return self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            self.process.wait()
            self.stray.close()


class FunctionAgent(Process):
    def __init__(self, heap=128, flags=()):
        super().__init__("function", heap, flags)
        self.hello = json.loads(self.channel.expect(HELLO))


class HostAgent(Process):
    def __init__(self, heap=256, flags=()):
        super().__init__("host", heap, flags)
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "agents.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.listener.settimeout(TIMEOUT)
        self.hello = json.loads(self.channel.expect(HELLO))
        self.next = 1

    def open(self):
        """A new isolate: its number, its channel, its HELLO."""
        number, self.next = self.next, self.next + 1
        self.channel.send(OPEN, {"isolate": number, "socket": self.path, "token": f"t{number}", "memory": 64})
        channel = Channel(self.listener.accept()[0])
        return number, channel, json.loads(channel.expect(HELLO))

    def close_isolate(self, number):
        self.channel.send(CLOSE, {"isolate": number})
        return json.loads(self.channel.expect(CLOSED))

    def close(self):
        self.listener.close()
        self.directory.cleanup()
        return super().close()
