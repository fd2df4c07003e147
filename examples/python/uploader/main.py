"""Downloads a file into the temporary directory and uploads it elsewhere."""

import hashlib
import json
import os
import shutil
import urllib.request


def main(args):
    path = f"{args['tmpDir']}/{os.path.basename(args['upload'])}"
    with urllib.request.urlopen(args["download"]) as response, open(path, "wb") as file:
        shutil.copyfileobj(response, file)
    try:
        with open(path, "rb") as file:
            data = file.read()
    finally:
        os.unlink(path)

    request = urllib.request.Request(args["upload"], data, {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request) as response:
        stored = json.load(response)
    checksum = hashlib.sha256(data).hexdigest()
    if (stored["bytes"], stored["sha256"]) != (len(data), checksum):
        raise RuntimeError(f"sent {len(data)} bytes with checksum {checksum}; the server has {stored}")
    return {"bytes": len(data), "checksum": checksum[:16]}
