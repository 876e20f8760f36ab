"""Accuracy: questions that a data folder has truth for, and how answers are graded."""
