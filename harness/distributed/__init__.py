"""One run in several processes: who they are, what they share, and how a run ends where one of them does."""
