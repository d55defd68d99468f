"""The science: one folder a question, all alike."""
