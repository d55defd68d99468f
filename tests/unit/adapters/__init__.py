"""Adapters by themselves."""
