"""Sub-interpreters by the module that this version's standard library has for them.

| version | module | what an interpreter of its own can have |
|---|---|---|
| 3.11 | `_xxsubinterpreters` | the GIL that all share |
| 3.12 | `_xxsubinterpreters` | its own GIL |
| 3.13 and later | `_interpreters` | its own GIL |

An interpreter with its own GIL is *isolated*: it refuses extension modules that do not say that they can bear it.
A *legacy* one shares the main interpreter's GIL and takes any module.
"""

import sys

HAS_OWN_GIL = sys.version_info >= (3, 12)

if sys.version_info >= (3, 13):
    import _interpreters

    def create(isolated):
        return _interpreters.create("isolated" if isolated else "legacy")

    def run(interpreter, script):
        """Runs `script` in this thread; None, or the type and message of the exception that ended it."""
        failure = _interpreters.run_string(interpreter, script)
        return failure and failure.formatted

    destroy = _interpreters.destroy
else:
    import _xxsubinterpreters

    def create(isolated):
        # 3.11 calls an interpreter isolated that may not start threads; it gives nothing for that.
        return _xxsubinterpreters.create(isolated=isolated and HAS_OWN_GIL)

    def run(interpreter, script):
        """Runs `script` in this thread; None, or the type and message of the exception that ended it."""
        try:
            _xxsubinterpreters.run_string(interpreter, script)
        except _xxsubinterpreters.RunFailedError as failure:
            return str(failure)
        return None

    destroy = _xxsubinterpreters.destroy
