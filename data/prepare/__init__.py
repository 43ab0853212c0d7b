"""Raw text to a corpus folder."""
