"""Many runs: campaigns, studies, their ticks on a scheduler, and MLflow's back-end plugin."""
