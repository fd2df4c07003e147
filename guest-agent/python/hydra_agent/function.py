"""One function on its channel: load it, invoke it. Function mode, and what runs in an isolate."""

import sys

from . import errors, jsontext
from .channel import (
    CHECKPOINT, HELLO, INVOKE, LOAD, LOAD_FAILED, LOADED, MAX_PAYLOAD, RAISED, READY, RESTORED, RESULT, Channel, ProtocolError,
)
from .loading import forget, load, remember
from .output import redirect

PROTOCOL = 1
EX_PROTOCOL = 70


def main(descriptor):
    """Function mode: serves the function on an inherited socket; returns the exit status."""
    from posix import set_inheritable
    from _signal import SIG_DFL, SIGINT, signal

    signal(SIGINT, SIG_DFL)
    set_inheritable(descriptor, False)
    channel = Channel(descriptor)
    try:
        channel.send(HELLO, hello())
        serve(channel)
    except ProtocolError:
        return EX_PROTOCOL
    except OSError:
        pass  # the peer is gone
    return 0


def hello(**more):
    name = "CPython" if sys.implementation.name == "cpython" else sys.implementation.name
    runtime = f"{name} {sys.version.split()[0]}"
    return jsontext.write_ascii({"protocol": PROTOCOL, "language": "python", "runtime": runtime, **more})


def serve(channel):
    order = read_order(channel)
    while order is not None:
        order = serve_order(channel, order)


def read_order(channel):
    """The payload of LOAD, or None at the end of the channel. The agent may be checkpointed before it has a function."""
    while True:
        frame = channel.receive()
        if frame is None:
            return None
        kind, payload = frame
        if kind == LOAD:
            return bytes(payload)
        if kind == CHECKPOINT:
            from . import checkpoint

            checkpoint.make_small()
            channel.send(READY)
        elif kind == RESTORED:
            from .restored import reseed

            reseed(jsontext.parse(payload.decode())["entropy"])
        else:
            raise ProtocolError(f"a frame of kind {kind:#x} came before LOAD")


def serve_order(channel, order, let_through=None):
    """Loads what `order` says and serves it until the channel ends, or another is to be loaded in its place, whose order is returned.

    An error of loading for which `let_through` is true is raised, not reported.
    """
    order = jsontext.parse(order.decode())
    flush = redirect(channel)
    before = remember()
    try:
        function, module = load(order["code"], order["entryPoint"])
    except BaseException as error:
        if let_through and let_through(error):
            raise
        flush()
        channel.send(LOAD_FAILED, errors.report(error))
        return None
    flush()
    channel.send(LOADED)

    from .checkpoint import Hooks, make_small  # now: no clone is to wait for these
    from .restored import reseed

    hooks = Hooks(module)
    invoke = _invoker(function, order["tmpDir"], min(order["maxResult"], MAX_PAYLOAD))
    receive, send = channel.receive, channel.send
    failed_hook = None
    while True:
        frame = receive()
        if frame is None:
            return None
        kind, payload = frame
        if kind == RESTORED:
            reseed(jsontext.parse(payload.decode())["entropy"])
            failed_hook = hooks.after_restore()
            continue
        if kind == CHECKPOINT:
            error = hooks.before_checkpoint()
            flush()
            if error:
                send(RAISED, errors.report(error))
            else:
                make_small()
                send(READY)
            continue
        if kind == LOAD:
            forget(before)
            return bytes(payload)
        if kind != INVOKE:
            raise ProtocolError(f"a frame of kind {kind:#x} came instead of INVOKE")
        try:
            if failed_hook:
                error, failed_hook = failed_hook, None
                raise error
            kind, answer = RESULT, invoke(payload)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they end the invocation, not the sandbox
            kind, answer = RAISED, errors.report(error)
        flush()
        send(kind, answer)


def _invoker(function, tmp_dir, max_result):
    def invoke(payload):
        arguments = _arguments(payload)
        if type(arguments) is dict:
            arguments["tmpDir"] = tmp_dir
        result = function(arguments)
        if type(result) is not str:
            result = _text(result)
        try:
            answer = result.encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidResult(f"the function returned text that is not valid Unicode: {error.reason}") from None
        if len(answer) > max_result:
            raise errors.ResultTooLarge(f"the result is {len(answer)} bytes long, and at most {max_result} are taken")
        return answer

    return invoke


def _arguments(payload):
    if not payload:
        return {}
    text = payload.decode()
    # Text that cannot be JSON is told apart here: an error of the scanner's would import `json`.
    if text[0] in '{["-0123456789tfn \t\r\n':
        try:
            return jsontext.parse(text)
        except ValueError:
            pass
    return text


def _text(result):
    if type(result) is Coroutine or hasattr(result, "__await__"):
        from .awaiting import wait_for

        result = wait_for(result)
    if isinstance(result, str):
        return str(result)
    try:
        return jsontext.write(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InvalidResult(f"the function returned what cannot be written as JSON: {error}") from None


async def _coroutine():
    pass


_sample = _coroutine()
Coroutine = type(_sample)
_sample.close()
