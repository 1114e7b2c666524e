"""Train many variants of an experiment: every combination of listed values, or a search in ranges, with Optuna.

`definition` describes a sweep, `running` trains it, `results` reads it. `definition` and `results` need no TensorFlow.
"""
