"""What runs in an isolate's own interpreter, on the thread that its host gave it."""

import sys

from . import function
from .channel import Channel

JOIN_TIME = 1  # seconds; Hydra waits five for an isolate that it let go


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

    Threads that are not daemons may end by themselves, as at the exit of a program, for `JOIN_TIME`. Then they get SystemExit, which they
    see when they next run Python code; so do daemons, at once. Until all have ended the isolate is not closed, and Hydra may kill the host.
    """
    from _thread import _count, allocate_lock, get_ident, start_new_thread

    if not _count():
        return
    import threading
    import time

    joined = allocate_lock()
    with joined:
        start_new_thread(_end_late, (joined, get_ident()))
        threading._shutdown()
    _raise_exit(thread for thread in threading.enumerate() if thread is not threading.current_thread())
    while _count():
        time.sleep(0.01)


def _end_late(joined, joiner):
    """Ends the threads that `joiner` waits for, if it still does after `JOIN_TIME`."""
    import threading

    if not joined.acquire(timeout=JOIN_TIME):
        _raise_exit(thread for thread in threading.enumerate() if not thread.daemon and thread.ident != joiner)


def _raise_exit(threads):
    if idents := [thread.ident for thread in threads]:
        from ctypes import c_ulong, py_object, pythonapi

        for ident in idents:
            pythonapi.PyThreadState_SetAsyncExc(c_ulong(ident), py_object(SystemExit))
