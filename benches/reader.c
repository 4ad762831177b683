/* reader - the client of the read benchmarks: does one kind of read as fast as a C program can.
 *
 * Usage:  reader files DIR < LIST       open, read to the end and close each file; names end with a NUL
 *         reader seq FILE BLOCK         read FILE from begin to end
 *         reader rand FILE BLOCK COUNT  COUNT reads at places that are the same at every run
 *         reader mmap-seq FILE          touch every page of a mapping, in order
 *         reader mmap-rand FILE COUNT   touch COUNT pages
 *
 * Compiled by scripts/bench. Prints nothing; exits 1 with a message if anything fails.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int open_file(const char *path, off_t *size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        err(1, "%s", path);
    *size = st.st_size;
    return fd;
}

static void read_files(const char *directory)
{
    static char buffer[1 << 17];
    char *name = NULL;
    size_t room = 0;
    if (chdir(directory) < 0)
        err(1, "%s", directory);
    while (getdelim(&name, &room, 0, stdin) > 0) {
        ssize_t n;
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            err(1, "%s", name);
        while ((n = read(fd, buffer, sizeof buffer)) > 0)
            ;
        if (n < 0)
            err(1, "%s", name);
        close(fd);
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        errx(2, "usage: see the source");
    const char *what = argv[1];
    off_t size;
    if (!strcmp(what, "files")) {
        read_files(argv[2]);
        return 0;
    }
    int fd = open_file(argv[2], &size);
    if (!strcmp(what, "seq") || !strcmp(what, "rand")) {
        int random = what[0] == 'r';
        size_t block = strtoul(argv[3], NULL, 10);
        uint64_t blocks = size / block;
        uint64_t count = random ? strtoul(argv[4], NULL, 10) : blocks;
        char *buffer = malloc(block);
        if (!buffer || !blocks)
            errx(1, "%s is too small", argv[2]);
        for (uint64_t i = 0; i < count; i++) {
            off_t at = (off_t)((random ? next_random() % blocks : i) * block);
            if (pread(fd, buffer, block, at) != (ssize_t)block)
                err(1, "%s", argv[2]);
        }
        return 0;
    }
    int random = !strcmp(what, "mmap-rand");
    const volatile char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        err(1, "%s", argv[2]);
    uint64_t pages = size / 4096;
    uint64_t count = random ? strtoul(argv[3], NULL, 10) : pages;
    unsigned sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += map[(random ? next_random() % pages : i) * 4096];
    return sum == 0x7fffffff;
}
