"""Host mode: the control channel, and a thread for each isolate. This runs in the main interpreter, no function does."""

import sys
from _thread import start_new_thread

from . import interpreters, jsontext
from .channel import CLOSE, CLOSED, HELLO, OPEN, Channel, ProtocolError
from .function import EX_PROTOCOL, hello, read_order

HOME = __file__.rpartition("/")[0].rpartition("/")[0]

# What an isolate runs. `NEEDS_LEGACY` is the one error that comes out of it on purpose.
SCRIPT = """
import sys
sys.path.insert(0, {home!r})
from hydra_agent.isolate import main
sys.path.remove({home!r})
main({descriptor}, {order!r}, {isolated})
"""
NEEDS_LEGACY = "NeedsLegacyInterpreter"


def main(descriptor):
    """Serves the control channel; returns the exit status. Isolates end with the process."""
    import posix
    from _signal import SIG_DFL, SIGINT, signal

    signal(SIGINT, SIG_DFL)
    posix.set_inheritable(descriptor, False)
    control = Channel(descriptor)
    isolates = {}
    status = 0
    try:
        control.send(HELLO, hello())
        _settle_shared_state()
        while (frame := control.receive()) is not None:
            kind, payload = frame
            if kind not in (OPEN, CLOSE):
                raise ProtocolError(f"a frame of kind {kind:#x} came on the control channel")
            order = jsontext.parse(payload.decode())
            if kind == OPEN:
                _open(control, isolates, order)
            elif isolate := isolates.get(order["isolate"]):
                isolate.hang_up()
    except ProtocolError:
        status = EX_PROTOCOL
    except OSError:
        pass  # Hydra is gone
    posix._exit(status)  # not sys.exit: that would wait for isolates that run


def _open(control, isolates, order):
    isolate = Isolate(order)
    isolates[isolate.number] = isolate
    try:
        start_new_thread(_live, (control, isolates, isolate))
    except RuntimeError as error:
        del isolates[isolate.number]
        _closed(control, isolate, f"no thread for the isolate: {error}")


def _live(control, isolates, isolate):
    try:
        reason = isolate.run()
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    del isolates[isolate.number]
    isolate.close()
    _closed(control, isolate, reason)
    _return_memory()


def _closed(control, isolate, reason):
    try:
        control.send(CLOSED, jsontext.write_ascii({"isolate": isolate.number, "reason": reason, "outOfMemory": False}))
    except OSError:
        pass  # Hydra is gone; the control loop sees it too


class Isolate:
    """A sub-interpreter with its function channel, from OPEN to CLOSED."""

    def __init__(self, order):
        self.number = order["isolate"]
        self._path = order["socket"]
        self._token = order["token"]
        self._channel = None
        self._hung_up = False

    def run(self):
        """Connects, then serves the isolate's function until its channel ends; returns the reason for CLOSED."""
        interpreter = interpreters.create(isolated=True)
        try:
            self._channel = Channel.connect(self._path)
            if self._hung_up:
                return "closed"
            self._channel.send(HELLO, hello(token=self._token))
            order = read_order(self._channel)
            if order is None:
                return "closed"
            failure = self._serve(interpreter, order, isolated=interpreters.HAS_OWN_GIL)
            if failure and NEEDS_LEGACY in failure:
                interpreters.destroy(interpreter)
                interpreter = interpreters.create(isolated=False)
                failure = self._serve(interpreter, order, isolated=False)
            return failure or "closed"
        finally:
            interpreters.destroy(interpreter)

    def _serve(self, interpreter, order, isolated):
        script = SCRIPT.format(home=HOME, descriptor=self._channel.fileno(), order=order, isolated=isolated)
        return interpreters.run(interpreter, script)

    def hang_up(self):
        """Ends the isolate once it is idle. A function that runs goes on until it returns, or Hydra kills the host."""
        self._hung_up = True
        if self._channel:
            self._channel.hang_up()

    def close(self):
        if self._channel:
            self._channel.close()


def _settle_shared_state():
    """Until 3.12, `datetime` keeps the first `_strptime` module that any interpreter imports. Were it an isolate's,
    `strptime` would fail in all others when that isolate ends; so it is the main interpreter's, which outlives them."""
    if sys.version_info < (3, 13):
        from datetime import datetime

        datetime.strptime("2000", "%Y")


def _return_memory():
    """Gives an ended isolate's memory back to the kernel, which the C library would keep."""
    try:
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)
    except (ImportError, OSError, AttributeError):
        pass  # not glibc
