"""The coordinator: knows mm, owns no page."""
