"""A training step as one graph of operators: traced, analysed, run node by node, and rewritten to need less memory."""
