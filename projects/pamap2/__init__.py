"""PAMAP2: which sensors does activity recognition need?"""
