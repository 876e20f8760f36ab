"""Answers: from the text that the model wrote to regions with scores, dictionaries and drawings."""
