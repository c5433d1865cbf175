"""The model library: which models there are, and where their files are."""
