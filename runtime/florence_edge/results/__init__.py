"""What comes back: the text of an answer as regions, scores, drawings and detections."""
