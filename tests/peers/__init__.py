"""Peers that tests talk to: an upstream registry that follows a script, and the settings that lead to it."""
