"""Hostile files, drawn from valid ones and read with little memory: `python -m tests.fuzz npz 0 1000`.

The numbers are the first case and how many; a case depends on its number alone. What breaks the promise is printed: an
error that is no sentence of ours, a wrong result, or a case that takes longer than `SECONDS`.
"""
