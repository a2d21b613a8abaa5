"""A release crosses the gap: real upstreams on one side, real clients on the other."""
