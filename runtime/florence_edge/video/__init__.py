"""Cameras, streams and video files: frames in, answers out.

    sources.py ──> Source ──capture.py (live) or batch.read_ahead (files)──> watch ──> Watched
    (pyav.py, gstreamer.py)                                                   ├── tracking.py
                                                                              ├── writer.py
                                                                              └── display.py

tracking.py numbers objects over the frames, writer.py writes a video, display.py shows it.
"""
