"""OpenVINO's notebook of Florence-2 as a compared system, in its own environment."""
