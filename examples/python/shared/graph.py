"""A random graph that is the same wherever it is made: `size` nodes, each tied to a few earlier ones."""

import random

TIES = 3


def neighbours(size, seed):
    """For each node the nodes that it is tied to. Connected, since all but the first are tied to earlier nodes."""
    chance = random.Random(seed)
    ties = [set() for _ in range(size)]
    for node in range(1, size):
        for _ in range(TIES):
            other = chance.randrange(node)
            ties[node].add(other)
            ties[other].add(node)
    return [sorted(others) for others in ties]
