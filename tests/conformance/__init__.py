"""The OCI conformance suite, against the mirror."""
