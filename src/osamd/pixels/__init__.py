"""Images, masks and coordinates. Arrays in, arrays out; nothing here knows HTTP, models or settings."""
