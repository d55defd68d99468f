"""Tests against a real batch scheduler and a real database server, which their fixtures start and stop."""
