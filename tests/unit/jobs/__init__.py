"""Jobs as scripts, and the schedulers as recorded."""
