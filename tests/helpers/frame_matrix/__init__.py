"""Video files of every kind, made small, and the check that FFmpeg numbers their frames alike.

A kind is a container, a codec, the structure of its references and the timing of its frames.
Copies, cuts and oddities that fit into no such table are extra cases. Every frame shows its own
number. The tests take a part of the cases; all of them, or those whose names hold one of the
arguments, are checked by

    PYTHONPATH=tests python -m helpers.frame_matrix [NAME ...] [--folder DIR]"""
