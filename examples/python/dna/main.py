"""The data to draw a DNA sequence as a walk in the plane: each base is two steps, as Squiggle does it.

A goes up then down, C down then up, T down twice, G up twice; each step is half a unit to the right.
"""

import hashlib
import json
import urllib.request
from array import array

STEPS = {"A": (1, 0), "C": (-1, 0), "G": (1, 2), "T": (-1, -2)}  # heights after the two steps
UNKNOWN = (0, 0)


def main(args):
    with urllib.request.urlopen(args["url"]) as response:
        name, sequence = read_fasta(response.read().decode("ascii"))
    heights = walk(sequence)
    path = f"{args['tmpDir']}/dna.json"
    with open(path, "w") as file:
        json.dump({"name": name, "x_step": 0.5, "y": heights.tolist()}, file)
    with open(path, "rb") as file:
        written = file.read()
    return {
        "name": name,
        "bases": len(sequence),
        "gc": round(sum(map(sequence.count, "GC")) / len(sequence), 6),
        "lowest": min(heights),
        "highest": max(heights),
        "end": heights[-1],
        "checksum": hashlib.sha256(written).hexdigest()[:16],
    }


def read_fasta(text):
    """The name and bases of the first sequence in `text`."""
    first = text.split(">")[1]
    header, *lines = first.splitlines()
    return header.split()[0], "".join(line.strip() for line in lines).upper()


def walk(sequence):
    heights = array("l", [0])
    height = 0
    for base in sequence:
        middle, end = STEPS.get(base, UNKNOWN)
        heights.append(height + middle)
        height += end
        heights.append(height)
    return heights
