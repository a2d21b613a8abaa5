/* A disk that answers with an error of our choice: preloaded into a service, steered by a file that both sides map.
 *
 *     gcc -shared -fPIC -O1 -o errno_shim.so errno_shim.c -ldl
 *     LD_PRELOAD=errno_shim.so ERRNO_SHIM=control python -m mirror serve
 *
 * Only calls that CPython and SQLite make of the C library are caught, and only on paths that hold the text `path`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, STAT = 2, FSTAT = 4, READ = 8, SENDFILE = 16, LIST = 32, WRITE = 64, SYNC = 128, FLIP = 256 };

static volatile struct control {
    int number; /* errno, 0 for a disk that is well */
    unsigned calls;
    int hits; /* how many calls failed */
    char path[2036];
} *control;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("ERRNO_SHIM");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    control = at == MAP_FAILED ? NULL : at;
}

static int fails(unsigned call, const char *path) {
    if (!control || !control->number || !(control->calls & call) || !path || !strstr(path, (const char *)control->path))
        return 0;
    __sync_fetch_and_add(&control->hits, 1);
    errno = control->number;
    return 1;
}

static int fails_at(unsigned call, int fd) {
    char link[64], path[4096];
    if (!control || !control->number || !(control->calls & call))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return fails(call, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags)
    return fails(OPEN, path) ? -1 : real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags)
    return fails(OPEN, path) ? -1 : real(path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(flags)
    return fails(OPEN, path) ? -1 : real(folder, path, flags, mode);
}
DIR *opendir(const char *path) {
    REAL(opendir);
    return fails(OPEN, path) ? NULL : real(path);
}
struct dirent64 *readdir64(DIR *folder) {
    REAL(readdir64);
    return fails_at(LIST, dirfd(folder)) ? NULL : real(folder);
}
int stat64(const char *path, struct stat64 *found) {
    REAL(stat64);
    return fails(STAT, path) ? -1 : real(path, found);
}
int lstat64(const char *path, struct stat64 *found) {
    REAL(lstat64);
    return fails(STAT, path) ? -1 : real(path, found);
}
int fstatat64(int folder, const char *path, struct stat64 *found, int flags) {
    REAL(fstatat64);
    return fails(STAT, path) ? -1 : real(folder, path, found, flags);
}
int fstat64(int fd, struct stat64 *found) {
    REAL(fstat64);
    return fails_at(FSTAT, fd) ? -1 : real(fd, found);
}
ssize_t read(int fd, void *at, size_t size) {
    REAL(read);
    return fails_at(READ, fd) ? -1 : real(fd, at, size);
}
ssize_t pread64(int fd, void *at, size_t size, off64_t position) {
    REAL(pread64);
    if (fails_at(READ, fd))
        return -1;
    ssize_t got = real(fd, at, size, position);
    if (got > 0 && !position && fails_at(FLIP, fd))
        *(char *)at ^= 1; /* a bit of memory that is wrong: what is read past the page cache, by preadv, is right */
    return got;
}
ssize_t preadv64v2(int fd, const struct iovec *at, int count, off64_t position, int flags) {
    REAL(preadv64v2);
    if (!fails_at(READ, fd))
        return real(fd, at, count, position, flags);
    if (flags & RWF_NOWAIT)
        errno = EAGAIN; /* what the disk does not give is not in the page cache, and that alone is said here */
    return -1;
}
ssize_t sendfile64(int out, int fd, off64_t *position, size_t size) {
    REAL(sendfile64);
    return fails_at(SENDFILE, fd) ? -1 : real(out, fd, position, size);
}
ssize_t write(int fd, const void *from, size_t size) {
    REAL(write);
    return fails_at(WRITE, fd) ? -1 : real(fd, from, size);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t position) {
    REAL(pwrite64);
    return fails_at(WRITE, fd) ? -1 : real(fd, from, size, position);
}
int fsync(int fd) {
    REAL(fsync);
    return fails_at(SYNC, fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return fails_at(SYNC, fd) ? -1 : real(fd);
}
