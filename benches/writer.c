/* writer - the client of the write benchmarks: does one kind of change as fast as a C program can.
 *
 * Usage:  writer create DIR COUNT            make COUNT empty files in DIR
 *         writer rename DIR COUNT            give each of them another name
 *         writer unlink DIR COUNT            remove them, by the names that "rename" gave
 *         writer write FILE BLOCK TOTAL      write TOTAL bytes from the begin of FILE, which is made if need be
 *         writer append FILE                 append one byte
 *
 * Compiled by scripts/bench. Prints nothing; exits 1 with a message if anything fails.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_file(const char *path, int flags, size_t block, size_t total)
{
    char *buffer = malloc(block);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
    if (fd < 0 || !buffer)
        err(1, "%s", path);
    memset(buffer, 'x', block);
    for (size_t done = 0; done < total; done += block)
        if (write(fd, buffer, block) != (ssize_t)block)
            err(1, "writing %s", path);
    if (close(fd) < 0)
        err(1, "closing %s", path);
}

static void change_names(const char *what, const char *directory, long count)
{
    if (chdir(directory) < 0)
        err(1, "%s", directory);
    for (long i = 0; i < count; i++) {
        char name[32], other[32];
        snprintf(name, sizeof name, "made-%ld", i);
        snprintf(other, sizeof other, "renamed-%ld", i);
        int failed;
        if (what[0] == 'c') {
            failed = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
            failed = failed < 0 ? failed : close(failed);
        } else if (what[0] == 'r') {
            failed = rename(name, other);
        } else {
            failed = unlink(other);
        }
        if (failed)
            err(1, "%s of %s", what, name);
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "append"))
        write_file(argv[2], O_APPEND, 1, 1);
    else if (argc == 5 && !strcmp(argv[1], "write"))
        write_file(argv[2], 0, strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
    else if (argc == 4)
        change_names(argv[1], argv[2], strtol(argv[3], NULL, 10));
    else
        errx(2, "usage: see the source");
    return 0;
}
