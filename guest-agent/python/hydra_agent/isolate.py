"""What runs in an isolate's own interpreter, on the thread that its host gave it."""

import sys

from . import function
from .channel import Channel


class NeedsLegacyInterpreter(Exception):
    """An extension module of the function's does not work in an interpreter with its own GIL."""


def main(descriptor, order, isolated):
    """Serves the function of `order` until its channel ends. `isolated`: this interpreter has its own GIL."""
    if sys.version_info < (3, 12):
        # Until 3.12 its C part keeps one interpreter's classes for all: the others could not catch CancelledError.
        sys.modules["_asyncio"] = None
    sys.argv = [""]
    channel = Channel(descriptor)
    try:
        while order is not None:
            order = function.serve_order(channel, order, _cannot_be_isolated if isolated else None)
    except NeedsLegacyInterpreter:
        raise
    except OSError:
        pass  # Hydra hung up during an invocation
    finally:
        channel.release()  # the host closes it
        _end_threads()


def _cannot_be_isolated(error):
    if isinstance(error, ImportError) and "does not support loading in subinterpreters" in str(error):
        raise NeedsLegacyInterpreter(str(error))
    return False


def _end_threads():
    """Ends the threads that the function left: CPython aborts the process if an interpreter is destroyed under them.

    Threads that are not daemons are joined, as at the exit of a program. A daemon gets SystemExit, which it sees
    when it next runs Python code. Until it does, the isolate is not closed, and Hydra may kill the host.
    """
    from _thread import _count

    if not _count():
        return
    import threading
    import time

    threading._shutdown()
    daemons = [thread.ident for thread in threading.enumerate() if thread is not threading.current_thread()]
    if daemons:
        from ctypes import c_ulong, py_object, pythonapi

        for daemon in daemons:
            pythonapi.PyThreadState_SetAsyncExc(c_ulong(daemon), py_object(SystemExit))
    while _count():
        time.sleep(0.01)
