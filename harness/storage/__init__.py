"""What is on disk: fetched models and data, run folders, records; each write whole or not at all."""
