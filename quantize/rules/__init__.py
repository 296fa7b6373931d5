"""The streaming rules, one file a family of operators."""
