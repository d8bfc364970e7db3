"""The literature as a test suite: experiments of papers, carried out again and judged.

Nothing here is part of the package. Each module of ``pages`` is an experiment: what a paper says,
how it is tried here, and the criterion, which was committed before the results were. See README.md.
"""
