"""Speed and memory of the engine beside other libraries; see README.md in this folder.

Nothing here is part of the package. ``tests/project/test_benchmarks.py`` runs a little of it.
"""
