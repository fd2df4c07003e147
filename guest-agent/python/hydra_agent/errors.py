"""Exceptions as the JSON of LOAD_FAILED and RAISED: message, type, and the function's own frames."""

from . import jsontext

MAX_MESSAGE = 64 << 10
MAX_STACK = 256 << 10
HOME = __file__.rpartition("/")[0] + "/"


class EntryPointError(Exception):
    """The function's code has no such entry point."""


class InvalidResult(Exception):
    """The function returned what cannot be written as JSON."""


class ResultTooLarge(Exception):
    """The function returned more than Hydra takes."""


OURS = (EntryPointError, InvalidResult, ResultTooLarge)


def report(error):
    """The payload for `error`, whatever it is."""
    try:
        message = str(error)
    except BaseException as failure:
        message = f"(its message failed with {type(failure).__name__})"
    return jsontext.write_ascii({
        "message": _cut(message, MAX_MESSAGE),
        "type": type(error).__name__,
        "stack": _cut(_stack(error), MAX_STACK),
    })


def _stack(error):
    if isinstance(error, OURS):
        return ""  # raised by the agent: no line of the function is to blame
    try:
        from traceback import TracebackException  # late: an isolate that raises nothing does without it

        trace = TracebackException.from_exception(error)
        _drop_agent_frames(trace)
        return "".join(trace.format())
    except BaseException as failure:  # a function can break this too: its __str__, its own `traceback` module
        return f"(the stack of {type(error).__name__} cannot be shown: {type(failure).__name__})"


def _drop_agent_frames(trace):
    pending, seen = [trace], set()
    while pending:
        trace = pending.pop()
        if trace is None or id(trace) in seen:
            continue
        seen.add(id(trace))
        trace.stack[:] = [
            frame for frame in trace.stack
            if not frame.filename.startswith(HOME) and not frame.filename.startswith("<frozen importlib")
        ]
        pending += [trace.__cause__, trace.__context__, *(trace.exceptions or ())]


def _cut(text, limit):
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "backslashreplace")
    return data[:limit].decode("utf-8", "ignore") if len(data) > limit else text
