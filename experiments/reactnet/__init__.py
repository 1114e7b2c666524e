"""ReActNet, from its own repository."""
