"""A function of the default entry point, with a module beside it."""

from package import beside


def main(args):
    return beside.greet(args["name"])
