"""Pictures of the recorded graph."""
