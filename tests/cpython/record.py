"""Runs CPython's own test suite, as `python3 -m test` does, and records what becomes of each test case.

    record.py RECORD ARGUMENTS-OF-REGRTEST...

Each line of RECORD is an event, written at once, so that a run that does not end tells how far it came:
`start CASE`, `pass CASE`, or `fail CASE`, `skip CASE` with what was raised or why, in one line, after a tab.
"""

import sys
from unittest import TextTestResult

from test.libregrtest import main
from test.support.testresult import RegressionTestResult

record = open(sys.argv.pop(1), "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def write(event, test, detail=""):
    record.write(f"{event} {test.id()}\t{' '.join(str(detail).split())}\n")


def recording(method, event, has_detail=False):
    """The result's method, which writes the event first."""
    original = getattr(RegressionTestResult, method)

    def recorded(self, test, *arguments):
        detail = arguments[0] if has_detail else ""
        if isinstance(detail, tuple):
            detail = f"{detail[0].__name__}: {detail[1]}"
        write(event, test, detail)
        original(self, test, *arguments)

    setattr(RegressionTestResult, method, recorded)


def add_sub_test(self, test, subtest, error):
    """A case of which a part fails gets no other outcome."""
    if error is not None:
        write("fail", test, f"{error[0].__name__}: {error[1]}, in {subtest._subDescription()}")
    TextTestResult.addSubTest(self, test, subtest, error)


recording("startTest", "start")
recording("addSuccess", "pass")
# What is expected to fail passes by failing.
recording("addExpectedFailure", "pass")
recording("addUnexpectedSuccess", "fail")
recording("addError", "fail", has_detail=True)
recording("addFailure", "fail", has_detail=True)
recording("addSkip", "skip", has_detail=True)
RegressionTestResult.addSubTest = add_sub_test

main()
