"""Views of the whole mesh: status, top and audit."""
