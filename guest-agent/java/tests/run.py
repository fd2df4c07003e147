"""Runs the tests that are named after the first argument, or all; adds the first argument's counts, "N passed, N failed", to its own."""
import os
import re
import sys
import unittest

os.chdir(os.path.dirname(os.path.abspath(__file__)))
before = re.fullmatch(r"(\d+) passed, (\d+) failed", sys.argv[1])
names = sys.argv[2:] or ["test_function", "test_host", "test_examples"]
result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromNames(names))
wrong = {str(test.id()).split(" ")[0] for test, _ in result.failures + result.errors}
passed = result.testsRun - len(wrong) + (int(before[1]) if before else 0)
failed = len(wrong) + (int(before[2]) if before else 1)
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
