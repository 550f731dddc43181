"""What the exit code of a command says."""

DONE = 0
REFUSED = 1  # the fleet said no
WRONG_USE = 2
NO_ANSWER = 3
INTERRUPTED = 130  # as a shell reports a program ended by SIGINT
PIPE_CLOSED = 141  # and by SIGPIPE
