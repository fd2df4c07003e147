"""The number of the isolate that this runs in: each that is made has a higher one."""

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters


def main(args):
    current = interpreters.get_current()
    return int(current[0] if isinstance(current, tuple) else current)
