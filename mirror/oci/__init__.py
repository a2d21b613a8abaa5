"""The words of the field as checked values: digests, references, media types, manifests. No I/O."""
