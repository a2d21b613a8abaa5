"""The face: HTTP in, HTTP out. After it: `content`, which decides what a name means and where its bytes are."""
