"""Frames on a stream socket: a header of 8 bytes (length, kind, zeros), then the payload."""

from _socket import AF_UNIX, SOCK_STREAM, socket  # not `socket`: that imports selectors, enum, os …
from _thread import allocate_lock

HELLO = 0x01
LOADED = 0x02
LOAD_FAILED = 0x03
RESULT = 0x04
RAISED = 0x05
LOG = 0x06
READY = 0x07
CLOSED = 0x11
LOAD = 0x81
INVOKE = 0x82
RESTORED = 0x83
CHECKPOINT = 0x84
OPEN = 0x91
CLOSE = 0x92

HEADER = 8
MAX_PAYLOAD = 64 << 20
FIRST_READ = 8192  # one recv takes in a whole frame up to this size
COPY_BELOW = 64 << 10  # a smaller payload is copied behind its header, so that one send carries both


class ProtocolError(Exception):
    """The peer sent what is not a frame of this protocol."""


class Channel:
    """One end of a channel. One thread receives; any thread may send."""

    def __init__(self, descriptor):
        self._socket = socket(fileno=descriptor)
        self._socket.settimeout(None)  # a function may have changed the default for new sockets
        self._unread = b""
        self._sending = allocate_lock()

    @classmethod
    def connect(cls, path):
        peer = socket(AF_UNIX, SOCK_STREAM)
        peer.settimeout(None)
        peer.connect(path)
        return cls(peer.detach())

    def fileno(self):
        return self._socket.fileno()

    def receive(self):
        """The next frame as (kind, payload), or None at the end of file."""
        data = self._unread or self._socket.recv(FIRST_READ)
        while len(data) < HEADER:
            more = self._socket.recv(FIRST_READ)
            if not more:
                if data:
                    raise ProtocolError("the channel ended within a frame's header")
                return None
            data += more
        length = int.from_bytes(data[:4], "little")
        if data[5] or data[6] or data[7] or length > MAX_PAYLOAD:
            raise ProtocolError(f"{data[:HEADER].hex()} is not a frame's header")
        end = HEADER + length
        if len(data) == end:
            self._unread = b""
            return data[4], data[HEADER:]
        if len(data) > end:
            self._unread = data[end:]
            return data[4], data[HEADER:end]
        self._unread = b""
        return data[4], self._rest(data, length)

    def _rest(self, data, length):
        payload = bytearray(length)
        have = len(data) - HEADER
        payload[:have] = data[HEADER:]
        with memoryview(payload) as view:
            while have < length:
                got = self._socket.recv_into(view[have:])
                if not got:
                    raise ProtocolError("the channel ended within a frame")
                have += got
        return payload

    def send(self, kind, payload=b""):
        header = (len(payload) | kind << 32).to_bytes(HEADER, "little")
        with self._sending:
            if len(payload) < COPY_BELOW:
                self._socket.sendall(header + payload)
            else:
                self._socket.sendall(header)
                self._socket.sendall(payload)

    def hang_up(self):
        """Ends the channel from any thread: a receive under way sees the end of file."""
        try:
            self._socket.shutdown(2)
        except OSError:
            pass  # the peer was first

    def release(self):
        """Gives the descriptor back, open, to whoever else holds it."""
        self._socket.detach()

    def close(self):
        self._socket.close()
