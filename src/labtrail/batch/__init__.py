"""Batch schedulers: jobs as scripts, and the few commands of Slurm and PBS that a campaign needs."""
