"""Functions that are `async def`: run on an event loop that lives as long as the sandbox."""

import asyncio

_runner = None


def wait_for(awaitable):
    """What `awaitable` gives, or raises what it raises."""
    global _runner
    if _runner is None:
        _runner = asyncio.Runner()
    error, result = _runner.run(_outcome(awaitable))
    if error is not None:
        raise error
    return result


async def _outcome(awaitable):
    # Caught here, an error's traceback holds no frames of asyncio, and SystemExit does not tear down the loop.
    try:
        return None, await awaitable
    except BaseException as error:
        return error, None
