"""JSON by the C parts of the standard library's own `json`.

Importing `json` itself costs an isolate 1 MB and a process 8 ms, nearly all for `re`, which these parts do not use.
Strict where `json` is not: NaN and Infinity are neither read nor written.
"""

from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

WHITESPACE = " \t\n\r"


def parse(text):
    """The value that `text` is as JSON; ValueError if it is not JSON."""
    text = text.strip(WHITESPACE)
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    except SystemError:
        # Until 3.12 the scanner takes its exception from `json.decoder`, and sets none if that was never imported.
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("not JSON: more text follows the value")
    return value


def write(value, encode_string=encode_basestring):
    """`value` as compact JSON; ValueError or TypeError, which say why, if it cannot be written."""
    encode = make_encoder({}, _refuse, encode_string, None, ":", ",", False, False, False)
    return "".join(encode(value, 0))


def write_ascii(value):
    """As `write`, in ASCII: safe for text that is not valid Unicode."""
    return write(value, encode_basestring_ascii).encode("ascii")


def _refuse(value):
    raise TypeError(f"an object of type {type(value).__name__} is not JSON")


def _not_a_number(name):
    raise ValueError(f"{name} is not JSON")


class _Settings:
    """What `json.decoder.JSONDecoder` hands to its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_not_a_number)
    memo = {}


_scan = make_scanner(_Settings)
