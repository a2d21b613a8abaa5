"""Faults of the upstream, the store, the clients, and what happens when they meet."""
