"""Bytes on disk. Before it: `content`, which decides what is stored. Nothing here knows HTTP or an upstream."""
