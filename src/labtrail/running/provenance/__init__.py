"""What a run was made by: code, environment, machine."""
