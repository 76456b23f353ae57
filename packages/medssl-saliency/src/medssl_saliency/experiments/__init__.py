"""The experiments of this package: `map`, `stats` and `sanity`."""
