"""``numalab bench``: what moving pages costs on this host, beside what else could carry them.

``figures.py`` is the table of what is measured; ``suite.py`` says in which order, and each family
of figures has a module of its own.  docs/benchmarks.md tells how to read the result.
"""
