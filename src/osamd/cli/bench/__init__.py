"""``osamd bench URL``: how fast a deployment answers, as its users see it."""
