"""Many machines as one: edges speak HTTP, Segmenters hold models and embeddings. Only this package imports Ray."""
