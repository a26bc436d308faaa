"""The archive: objects, index, verbs, and the two protocols that reach them."""
