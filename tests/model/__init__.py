"""The pull path against a small model of what it may do."""
