"""Writes a folder of files, makes a zip archive of it, and reports on both."""

import hashlib
import os
import random
import shutil
import tempfile
import zipfile

WORDS = ("cloud", "function", "request", "memory", "kernel", "page", "thread", "socket", "snapshot", "restore")


def main(args):
    folder = tempfile.mkdtemp(dir=args["tmpDir"])
    try:
        files = write_files(folder, int(args.get("files", 20)), int(args.get("size", 20_000)), args.get("seed", 42))
        archive = os.path.join(folder, "archive.zip")
        compress(files, archive)
        return {
            "files": len(files),
            "size": sum(os.path.getsize(path) for path in files),
            "compressed": os.path.getsize(archive) < sum(os.path.getsize(path) for path in files),
            "checksum": digest_of_contents(archive),
        }
    finally:
        shutil.rmtree(folder)


def write_files(folder, count, size, seed):
    chance = random.Random(seed)
    paths = []
    for number in range(count):
        path = os.path.join(folder, f"{number:04}.txt")
        text = " ".join(chance.choices(WORDS, k=size // 6 + 1))
        with open(path, "w") as file:
            file.write(text[:size].ljust(size))
        paths.append(path)
    return paths


def compress(paths, archive):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in paths:
            out.write(path, os.path.basename(path))


def digest_of_contents(archive):
    """Of what comes out of the archive: what deflate makes of it depends on zlib's version."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive) as read:
        for name in sorted(read.namelist()):
            digest.update(name.encode() + b"\0" + read.read(name))
    return digest.hexdigest()[:16]
