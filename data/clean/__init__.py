"""Cleaning of documents: rules, duplicates over the whole corpus, decontamination, and the report."""
