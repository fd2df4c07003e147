"""The Python programs of `hydra bench exec`: programs.py NAME FOLDER runs one and prints its seconds and its result."""

import hashlib
import json
import os
import re
import sys
import time


def nothing(folder):
    return 0


def json_text(folder):
    record = {"name": "grüße", "tags": ["a", "b", "c"] * 5, "values": [i * 0.37 for i in range(40)], "deep": {"x": [None, True]}}
    size = 0
    for i in range(6000):
        record["number"] = i
        size += len(json.dumps(json.loads(json.dumps(record))))
    return size


def regex(folder):
    text = " ".join(f"user{i}@host{i % 97}.example.org, +49-{i:07d}; /path/{i:x}/file_{i}.txt" for i in range(4000))
    patterns = [r"[\w.]+@[\w.]+\.org", r"\+\d{2}-(\d{3})(\d+)", r"/(?:[0-9a-f]+/)+file_\d*7\.txt", r"(?i)HOST(\d)\1"]
    return sum(len(re.findall(pattern, text)) for pattern in patterns for _ in range(12))


def nbody(folder):
    bodies = [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 39.47],
        [4.84, -1.16, -0.10, 0.60, 2.81, -0.02, 0.037],
        [8.34, 4.12, -0.40, -1.01, 1.82, 0.008, 0.011],
        [12.89, -15.11, -0.22, 1.08, 0.86, -0.010, 0.0017],
        [15.37, -25.91, 0.17, 0.97, 0.59, -0.034, 0.0020],
    ]
    pairs = [(a, b) for i, a in enumerate(bodies) for b in bodies[i + 1 :]]
    for _ in range(50000):
        for a, b in pairs:
            dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
            force = 0.001 / (dx * dx + dy * dy + dz * dz) ** 1.5
            for body, sign, mass in (a, -1, b[6]), (b, 1, a[6]):
                body[3] += sign * dx * mass * force
                body[4] += sign * dy * mass * force
                body[5] += sign * dz * mass * force
        for body in bodies:
            for axis in range(3):
                body[axis] += 0.001 * body[axis + 3]
    return round(sum(body[0] for body in bodies), 6)


def sha256(folder):
    digest = hashlib.sha256()
    block = bytes(range(256)) * 4096
    for _ in range(100):
        digest.update(block)
    return digest.hexdigest()


def memory(folder):
    """First touches: what a program costs that takes and gives back memory."""
    total = 0
    for _ in range(5):
        block = bytearray(32 << 20)
        total += sum(block[::4096]) + len(block)
    return total


def small_files(folder):
    total = 0
    for i in range(1000):
        path = os.path.join(folder, f"{i}.txt")
        with open(path, "w") as file:
            file.write("line\n" * (i % 50))
        total += os.stat(path).st_size
        with open(path) as file:
            file.seek(3)
            total += len(file.read())
        os.unlink(path)
    return total


def large_file(folder):
    path = os.path.join(folder, "large")
    block = bytes(range(256)) * 256
    with open(path, "wb") as file:
        for _ in range(1600):
            file.write(block)
    total = 0
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 18):
            total += len(part)
        for i in range(2000):
            file.seek(i * 52429 % (1600 * 65536))
            total += file.read(100)[0]
    os.unlink(path)
    return total


if __name__ == "__main__":
    program, folder = globals()[sys.argv[1]], sys.argv[2]
    start = time.perf_counter()
    result = program(folder)
    print(json.dumps({"seconds": time.perf_counter() - start, "result": str(result)}))
