"""What the end-to-end tests ask of a function, in Python; kit.js and Kit.java do the same."""

import asyncio
import mmap
import os
import resource
import socket
import stat
import sys
import threading
import time
import urllib.error
import urllib.request

print("loaded")
calls = 0
kept = []
ticks = 0


def main(args):
    global calls, ticks
    calls += 1
    action = args.get("do") if isinstance(args, dict) else None
    if action is None:
        return args
    if action == "count":
        return calls
    if action == "sleep":
        print(args["text"])
        time.sleep(args["ms"] / 1000)
        return "slept"
    if action == "loop":
        while True:
            pass
    if action == "hog":
        for _ in range(args["mib"]):
            kept.append(b"x" * (1 << 20))
            time.sleep(0.001)
        time.sleep(args.get("hold", 0) / 1000)
        kept.clear()
        return "held"
    if action == "hog outside":
        block = mmap.mmap(-1, args["mib"] << 20)
        for page in range(0, len(block), 4096):
            block[page] = 1
        time.sleep(args.get("hold", 0) / 1000)
        block.close()
        return "held"
    if action == "hog files":
        file = os.memfd_create("hog")
        for _ in range(args["mib"]):
            os.write(file, bytes(1 << 20))
            time.sleep(0.001)
        time.sleep(args.get("hold", 0) / 1000)
        os.close(file)
        return "held"
    if action == "zone":
        return time.tzname[0]
    if action == "raise":
        raise ValueError("deliberate: " + args["text"])
    if action == "print":
        print(args["text"])
        print(args["text"], file=sys.stderr)
        return "printed"
    if action == "flood":
        for _ in range(args["lines"]):
            print("f" * 1000)
        return "flooded"
    if action == "babble":
        # Empty LOG frames past the agent, on every socket that there is.
        frames = b"\0\0\0\0\x06\0\0\0" * 30_000
        sockets = [fd for fd in range(3, 64) if is_socket(fd)]
        while sockets:
            for fd in sockets:
                os.write(fd, frames)
    if action == "exit":
        sys.exit(3)
    if action == "large":
        return "x" * args["length"]
    if action == "unserialisable":
        return {"function": main}
    if action == "read":
        with open(args["path"], encoding="utf-8") as file:
            return file.read()
    if action == "write":
        with open(args["path"], "w", encoding="utf-8") as file:
            file.write(args["text"])
        return "written"
    if action == "list":
        return sorted(os.listdir(args["path"]))
    if action == "where":
        return os.path.dirname(os.path.abspath(__file__))
    if action == "ask":
        try:
            with urllib.request.urlopen(args["url"], timeout=30) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
    if action == "environment":
        return sorted(os.environ)
    if action == "background":
        threading.Thread(target=tick).start()
        return "started"
    if action == "descriptors":
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        files = []
        try:
            while True:
                files.append(os.open(__file__, os.O_RDONLY))
        except OSError:
            return len(files)
        finally:
            for file in files:
                os.close(file)
    if action == "connect":
        socket.socket(socket.AF_UNIX).connect("\0" + args["name"])
        return "connected"
    if action == "ticks":
        return ticks
    raise ValueError(f"unknown: {action}")


def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.01)


async def later(args):
    await asyncio.sleep(0.01)
    return main(args)
