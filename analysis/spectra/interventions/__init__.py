"""Do intruder dimensions cause what they are blamed for? Their strength is changed, and the model evaluated again."""
