"""Looking after a service: what is wrong with its configuration, and the housekeeping of its store."""
