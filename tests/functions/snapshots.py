"""What the tests of snapshot sandboxes ask of a function; snapshots.js and Snapshots.java do the same."""

import atexit
import ctypes
import os
import random
import secrets
import socket
import ssl
import tempfile
import threading
import time
import uuid

from hydra_hooks import on_checkpoint, on_restore

calls = 0
connection = None
last = time.monotonic()
events = []
broken = False
atexit.register(os.write, 2, b"cleaned up\n")  # past what goes with the channel


def chatter():
    while True:
        print("c" * 1000)


def before_checkpoint():
    if broken:
        raise ValueError("deliberate")
    events.append("checkpoint")


async def after_restore():
    events.append("restore")


@on_checkpoint
async def listener_before():
    events.append("listener before")


@on_restore
def listener_after():
    events.append("listener after")


def main(args):
    global broken, calls, connection, last
    calls += 1
    action = args.get("do", "count")
    if action == "count":
        return calls
    if action == "identity":
        now = time.monotonic()
        back, last = now < last, now
        return {
            "random": random.random(),
            "uuid": str(uuid.uuid4()),
            "secret": secrets.token_hex(8),
            "name": tempfile.mktemp(),
            "openssl": ssl.RAND_bytes(8).hex(),
            "time": time.time(),
            "back": back,
        }
    if action == "wait":
        with socket.create_connection(("127.0.0.1", args["port"])) as peer:
            return peer.recv(8).decode()
    if action == "connect":
        connection = socket.create_connection(("127.0.0.1", args["port"]))
        return connection.recv(8).decode()
    if action == "use":
        try:
            return connection.recv(8).decode() or "end"
        except OSError as error:
            return "reset" if isinstance(error, ConnectionResetError) else type(error).__name__
    if action == "write":
        with open(f"{args['tmpDir']}/note", "a", encoding="utf-8") as file:
            file.write(args["text"])
        return "written"
    if action == "read":
        with open(f"{args['tmpDir']}/note", encoding="utf-8") as file:
            return file.read()
    if action == "chatter":
        threading.Thread(target=chatter, daemon=True).start()
        return "chatters"
    if action == "crash":
        ctypes.string_at(0)
    if action == "events":
        return events
    if action == "break":
        broken = True
        return "broken"
    raise ValueError(f"unknown: {action}")
