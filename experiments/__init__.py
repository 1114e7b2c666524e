"""The experiments: one TOML file per published row, `<paper>/<network>_<dataset>[_<variant>].toml`."""
