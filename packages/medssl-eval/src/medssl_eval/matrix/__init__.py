"""Many experiments from one plan: jobs, executors, a cluster."""
