"""Terms of the client objective: one paper a file, the pure function and the term that plugs it in."""
