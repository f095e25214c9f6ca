"""Where do features collapse, how far, and why: measurements of local and global models, and a verdict in words."""
