"""What a function prints goes out as LOG frames, a line at a time."""

import io
import sys

from .channel import LOG

MAX_TEXT = 64 << 10


def redirect(channel):
    """Makes sys.stdout and sys.stderr write to `channel`; returns a function that sends what they still hold."""
    stdout, stderr = _stream(channel, 1, "<stdout>"), _stream(channel, 2, "<stderr>")
    sys.stdout = sys.__stdout__ = stdout
    sys.stderr = sys.__stderr__ = stderr

    def flush(flush_stdout=stdout.flush, flush_stderr=stderr.flush):
        try:
            flush_stdout()
            flush_stderr()
        except ValueError:
            pass  # the function closed its stream

    return flush


def _stream(channel, number, name):
    buffered = io.BufferedWriter(_LogWriter(channel, number, name))
    return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True)


class _LogWriter(io.RawIOBase):
    def __init__(self, channel, number, name):
        self._channel = channel
        self._number = number
        self._prefix = bytes([number])
        self.name = name
        self.mode = "wb"

    def writable(self):
        return True

    def fileno(self):
        return self._number

    def write(self, data):
        text = _whole_characters(bytes(data[:MAX_TEXT]))
        taken = len(text)
        try:
            text.decode()
        except UnicodeDecodeError:  # bytes written to sys.stdout.buffer; a replacement is three bytes long
            taken = min(taken, MAX_TEXT // 3)
            text = text[:taken].decode("utf-8", "replace").encode()
        try:
            self._channel.send(LOG, self._prefix + text)
        except OSError:
            pass  # Hydra is gone: the next receive ends this sandbox
        return taken


def _whole_characters(text):
    """`text` without the beginning of a character that was cut off at `MAX_TEXT`."""
    if len(text) < MAX_TEXT:
        return text
    for back in range(1, 4):
        lead = text[-back]
        if lead >= 0xC0:  # begins a character of `width` bytes
            width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return text[:-back] if width > back else text
        if lead < 0x80:
            break
    return text
