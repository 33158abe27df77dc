"""What is sent to hosts to look around: Python 3.6, standard library only, or POSIX sh. Changes nothing there."""
