"""Downloads an image and makes a thumbnail of it, with Pillow."""

import hashlib
import io
import urllib.request

from PIL import Image


def main(args):
    width, height = int(args.get("width", 128)), int(args.get("height", 128))
    with urllib.request.urlopen(args["url"]) as response:
        data = response.read()
    with Image.open(io.BytesIO(data)) as image:
        original = image.size
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    thumbnail.save(out, "PNG")
    with open(f"{args['tmpDir']}/thumbnail.png", "wb") as file:
        file.write(out.getvalue())
    return {
        "original": original,
        "thumbnail": thumbnail.size,
        "checksum": hashlib.sha256(thumbnail.tobytes()).hexdigest()[:16],  # of the pixels: the file depends on zlib
    }
