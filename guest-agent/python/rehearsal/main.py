"""What an agent runs before its template is taken, and what a copy of the template runs once more before it is put back and waits for a function.

It imports what functions commonly do: they find it imported. No function is the slower for it, as copies share what they do not change.
"""


def main(args):
    import base64, collections, datetime, functools, hashlib, importlib.util, io, itertools, json, logging, math, os, random, re  # noqa: F401, E401
    import shutil, string, tempfile, threading, time, typing, urllib.parse, urllib.request, uuid, zipfile  # noqa: F401, E401

    importlib.util.find_spec("module_of_a_function")  # how its own are looked for
    text = json.dumps({"at": datetime.datetime.now().isoformat(), "id": re.sub("-", "", "a-b")})
    return {**args, "digest": hashlib.sha256(text.encode()).hexdigest(), "text": json.loads(text)}
