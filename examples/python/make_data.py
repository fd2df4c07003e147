"""Makes the input data of the Python functions: make_data.py OUT. The same bytes every time."""

import random
import struct
import sys
from pathlib import Path


def main(out):
    (out / "python-sequence.fasta").write_text(fasta(30_000, seed=1))
    (out / "python-image.bmp").write_bytes(bitmap(640, 480))
    (out / "python-payload.bin").write_bytes(random.Random(3).randbytes(200_000))


def fasta(bases, seed, columns=70):
    sequence = "".join(random.Random(seed).choices("ACGT", weights=(3, 2, 2, 3), k=bases))
    lines = [sequence[at:at + columns] for at in range(0, bases, columns)]
    return "\n".join([f">synthetic-{bases} made with seed {seed}", *lines, ""])


def bitmap(width, height):
    """A picture of 24 bits a pixel, uncompressed, so that no compressor's version shows in it."""
    rows = bytearray()
    for y in range(height):  # width * 3 is a multiple of 4: rows need no padding
        for x in range(width):
            rings = ((x - width // 2) ** 2 + (y - height // 2) ** 2) // 64 & 0xFF
            rows += bytes((rings, x * 255 // width, y * 255 // height))
    header = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))
