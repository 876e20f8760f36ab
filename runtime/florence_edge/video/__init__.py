"""Cameras, streams and video files: frames in, answers out.

opening.py ──> Source ──latest.py (live) or ahead.py (files)──> watch ──> frame, results, stats
                                                                 ├── tracking.py  numbers objects
                                                                 ├── recording.py writes a video
                                                                 └── window.py    shows it
"""
