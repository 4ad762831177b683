/* usage - run a program and write down what it used.
 *
 * Usage:  usage OUT PROGRAM [ARGUMENT...]
 *
 * Writes "USER-SECONDS SYSTEM-SECONDS PEAK-BYTES WALL-SECONDS STATUS" to OUT. Exists because the peak memory that the
 * kernel reports for a child begins with that of its parent at the time of exec: measured from Python, no
 * program needs less than Python does. This parent is small. Compiled by scripts/bench.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double seconds(struct timeval t)
{
    return t.tv_sec + t.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    struct rusage used;
    int status;
    if (argc < 3)
        errx(2, "usage: usage OUT PROGRAM [ARGUMENT...]");
    double began = now();
    pid_t child = fork();
    if (child < 0)
        err(1, "fork");
    if (child == 0) {
        execvp(argv[2], argv + 2);
        err(127, "%s", argv[2]);
    }
    if (wait4(child, &status, 0, &used) < 0)
        err(1, "wait4");
    double wall = now() - began;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    FILE *out = fopen(argv[1], "w");
    if (!out)
        err(1, "%s", argv[1]);
    fprintf(out, "%.6f %.6f %ld %.6f %d\n", seconds(used.ru_utime), seconds(used.ru_stime), used.ru_maxrss * 1024,
            wall, code);
    if (fclose(out))
        err(1, "%s", argv[1]);
    return code;
}
