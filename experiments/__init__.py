"""Experiments as TOML files, `<paper>/<network>_<dataset>[_<variant>].toml`."""
