"""Where processes run: this machine, Slurm, PBS, and the scripts and files of their jobs."""
