"""Pictures of maps, of sets of maps and of sanity checks."""
