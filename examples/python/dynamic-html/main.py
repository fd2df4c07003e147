"""A page from a template, by Jinja."""

import hashlib
import os
import random

from jinja2 import Environment, FileSystemLoader

pages = Environment(loader=FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")), autoescape=True)


def main(args):
    chance = random.Random(args.get("seed", 42))
    numbers = [chance.randrange(1_000_000) for _ in range(int(args.get("rows", 1000)))]
    html = pages.get_template("page.html").render(user=args.get("user", "somebody"), numbers=numbers)
    answer = {"bytes": len(html.encode()), "checksum": hashlib.sha256(html.encode()).hexdigest()[:16]}
    if args.get("html"):
        answer["html"] = html
    return answer
