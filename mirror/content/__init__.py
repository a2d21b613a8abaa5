"""What a name means and where its bytes are.

Before it: `registry` (the face), which hands over checked values. After it: `upstream` (bytes that are not here)
and `store` (bytes that are).
"""
