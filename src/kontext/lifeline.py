"""A child process that ends with us, however we end.

A child does not notice that its parent was killed. A shell between the two does: it waits for the
child, and for the end of a pipe that only we hold open. When we close that pipe, or die in any
way, the child is killed, and with it all that it started, even what is stopped or deaf to SIGTERM.
"""

_SCRIPT = """
exec 3<&0
"$@" < /dev/null 3<&- &
child=$!
exec 2> /dev/null  # what follows is of no interest
trap 'kill -TERM "$child"' TERM
(cat <&3 > /dev/null; kill -KILL 0) &
watch=$!
exec 3<&-
wait "$child"
code=$?
while kill -0 "$child"; do  # the trap interrupted the wait
    wait "$child"
    code=$?
done
kill "$watch"
exit "$code"
"""


def tied(command: list[str]) -> list[str]:
    """Return the command line that runs `command` so.

    Start it in a session of its own, for that is what it kills, with a pipe as standard input that
    you keep open for as long as the child is to live. SIGTERM, exit status and output are the
    child's.
    """
    return ["/bin/sh", "-c", _SCRIPT, "sh", *command]
