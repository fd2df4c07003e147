"""The least that a function can be."""


def main(args):
    return f"Hello, {args.get('name', 'world')}!"
