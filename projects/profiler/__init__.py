"""Where the memory of a training step goes: traced as one graph, analysed, run and measured node by node."""
