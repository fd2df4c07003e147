"""Breadth-first search through a random graph: the distance of every node from node 0."""

import hashlib
from collections import deque

from graph import neighbours


def main(args):
    size = int(args.get("size", 2000))
    ties = neighbours(size, args.get("seed", 42))

    distance = [-1] * size
    distance[0] = 0
    queue = deque([0])
    while queue:
        node = queue.popleft()
        for other in ties[node]:
            if distance[other] < 0:
                distance[other] = distance[node] + 1
                queue.append(other)

    return {
        "size": size,
        "reached": sum(steps >= 0 for steps in distance),
        "farthest": max(distance),
        "checksum": hashlib.sha256(repr(distance).encode()).hexdigest()[:16],
    }
