"""Whatever people have their text in, as documents: finding, reading, decompressing, parsing."""
