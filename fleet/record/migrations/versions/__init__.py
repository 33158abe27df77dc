"""The steps. A released one is never edited: add the next, and its number to ``database.REVISIONS``."""
