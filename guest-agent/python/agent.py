"""Hydra's agent for Python: `agent.py --function FD` serves one function, `agent.py --host FD` many of them.

Start it as `python3 -I -S -B agent.py …`: no user settings, no site-packages. See PROTOCOL.md and README.md.
"""

import sys

USAGE = "usage: agent.py --function FD | --host FD, where FD is an inherited stream socket"
EX_USAGE = 64


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in ("--function", "--host") or not arguments[1].isdecimal():
        sys.stderr.write(USAGE + "\n")
        return EX_USAGE
    mode, descriptor = arguments[0], int(arguments[1])

    # -I leaves the script's directory out of the path; functions should not find it there either.
    home = __file__.rpartition("/")[0] or "."
    sys.path.insert(0, home)
    if mode == "--function":
        from hydra_agent.function import main as serve
    else:
        from hydra_agent.host import main as serve
    sys.path.remove(home)

    sys.argv = [""]
    return serve(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
