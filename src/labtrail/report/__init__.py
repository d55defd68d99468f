"""One page from many runs."""
