"""One run: a task, its session in the store, checkpoints, signals and ranks."""
