# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of this folder and ends with `N passed, M failed`. Arguments: names of tests (test_hpack)."""
import os
import sys
import unittest

if sys.version_info < (3, 11):
    sys.exit('python3 is older than 3.11')
here = os.path.dirname(os.path.abspath(__file__))
loader = unittest.TestLoader()
suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(here, 'test_*.py')
result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite)
bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
print(f'{result.testsRun - bad} passed, {bad} failed')
sys.exit(0 if result.testsRun > 0 and bad == 0 else 1)
