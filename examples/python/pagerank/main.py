"""PageRank of a random graph by power iteration."""

import hashlib

from graph import neighbours

DAMPING = 0.85


def main(args):
    size = int(args.get("size", 1000))
    tolerance = args.get("tolerance", 1e-8)
    ties = neighbours(size, args.get("seed", 42))

    rank = [1 / size] * size
    rounds = 0
    change = 1.0
    while change > tolerance:
        rounds += 1
        share = [value / len(others) for value, others in zip(rank, ties)]
        new = [(1 - DAMPING) / size + DAMPING * sum([share[other] for other in others]) for others in ties]
        change = sum(abs(a - b) for a, b in zip(new, rank))
        rank = new

    top = sorted(range(size), key=lambda node: (-rank[node], node))[:10]
    rounded = [f"{value:.9f}" for value in rank]  # digits that no order of summing changes
    return {
        "size": size,
        "rounds": rounds,
        "top": top,
        "checksum": hashlib.sha256(" ".join(rounded).encode()).hexdigest()[:16],
    }
