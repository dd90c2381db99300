"""`graft bench`: this project's trainer and generation beside mlx-lm's, on this machine.

The contestants are programs that take turns at the same work (`contest`), those of `workers`, on
models made from a fixed seed (`models`) or on a given one.
"""
