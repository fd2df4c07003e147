"""What a program that goes on from a snapshot must not share with the snapshot's other clones: random numbers."""

import sys

from .loading import replaced


def reseed(entropy):
    """Seeds the generators that the program has loaded with `entropy`, 64 hexadecimal digits that no other clone has.

    What asks the system each time (`os.urandom`, `secrets`, `uuid.uuid4`) needs nothing. Generators that the function made itself
    keep their state: only the function knows whether they are meant to repeat.
    """
    for name, seed in _SEEDS:
        module = replaced.get(name) or sys.modules.get(name)
        if module is not None:
            try:
                seed(module, entropy)
            except Exception:  # the function put something else in the module's place
                pass


def _seed_random(random, entropy):
    random.seed(int(entropy, 16))


def _seed_tempfile(tempfile, entropy):
    tempfile._name_sequence = None  # made anew, with a seed of its own, for the next name


def _seed_openssl(ssl, entropy):
    ssl.RAND_add(bytes.fromhex(entropy), 32.0)


def _seed_numpy(random, entropy):
    random.seed([int(entropy[at : at + 8], 16) for at in range(0, 64, 8)])


_SEEDS = (
    ("random", _seed_random),
    ("tempfile", _seed_tempfile),
    ("_ssl", _seed_openssl),
    ("numpy.random", _seed_numpy),
)
