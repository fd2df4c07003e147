"""The minimum spanning tree of a random graph with weighted edges, by Kruskal's algorithm."""

import hashlib
import random

from graph import neighbours


def main(args):
    size = int(args.get("size", 2000))
    seed = args.get("seed", 42)
    ties = neighbours(size, seed)
    chance = random.Random(seed)
    edges = sorted((chance.randrange(1, 1_000_000), a, b) for a in range(size) for b in ties[a] if a < b)

    root = list(range(size))

    def find(node):
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    tree = []
    for weight, a, b in edges:
        a_root, b_root = find(a), find(b)
        if a_root != b_root:
            root[a_root] = b_root
            tree.append((weight, a, b))

    return {
        "size": size,
        "edges": len(tree),
        "weight": sum(weight for weight, _, _ in tree),
        "checksum": hashlib.sha256(repr(tree).encode()).hexdigest()[:16],
    }
