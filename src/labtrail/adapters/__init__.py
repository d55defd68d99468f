"""Loops of other libraries on a run of labtrail: each adapter is a module, and needs the extra of its name."""
