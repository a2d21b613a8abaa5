"""How images cross the gap: what a set needs, fetched, saved, loaded, applied and verified (DESIGN 3)."""
