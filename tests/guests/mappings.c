// Shared and private mappings of one file, and reads and writes of it: all see the same content.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 40

static char *map(int file, int prot, int flags, long page) {
    char *p = mmap(0, PAGE, prot, flags, file, page * PAGE);
    if (p == MAP_FAILED) perror("mmap"), exit(1);
    return p;
}

static char byte_at(int file, long offset) {
    char byte = '?';
    pread(file, &byte, 1, offset);
    return byte;
}

int main(void) {
    char path[] = "/tmp/hydra-mappings-XXXXXX";
    int file = mkstemp(path), reader = open(path, O_RDONLY);
    unlink(path);
    ftruncate(file, PAGES * PAGE);
    int both = PROT_READ | PROT_WRITE;

    char *first = map(file, both, MAP_SHARED, 3), *second = map(file, both, MAP_SHARED, 3);
    char *whole = mmap(0, PAGES * PAGE, PROT_READ, MAP_SHARED, reader, 0);
    printf("empty %d %d\n", first[7], whole[3 * PAGE + 7]);
    first[7] = 'a';
    second[8] = 'b';
    printf("shared %c%c %c%c\n", second[7], first[8], whole[3 * PAGE + 7], whole[3 * PAGE + 8]);
    printf("read %c %c\n", byte_at(file, 3 * PAGE + 7), byte_at(reader, 3 * PAGE + 8));
    printf("private %c\n", map(file, both, MAP_PRIVATE, 3)[7]);
    pwrite(file, "xyz", 3, 3 * PAGE + 7);
    lseek(file, 3 * PAGE + 10, SEEK_SET);
    write(file, "w", 1);
    printf("written %.4s %.4s\n", first + 7, whole + 3 * PAGE + 7);
    lseek(reader, 3 * PAGE + 7, SEEK_SET);
    second[7] = 'n';
    char part[5] = "";
    read(reader, part, 4);
    printf("read on %s\n", part);

    madvise(first, PAGE, MADV_DONTNEED);
    printf("kept %c\n", first[7]);
    int refused = mprotect(whole, PAGE, both);
    printf("protect %d %d\n", refused, errno == EACCES);
    mprotect(second, PAGE, PROT_READ);
    first[9] = 'm';
    mprotect(second, PAGE, both);
    second[9]++;
    printf("after protect %c\n", first[9]);

    // From the first page to a mapping that is moved and grows.
    char *moved = mremap(map(file, both, MAP_SHARED, 5), PAGE, 4 * PAGE, MREMAP_MAYMOVE);
    moved[2 * PAGE] = 'v';
    printf("moved %c\n", whole[7 * PAGE]);
    munmap(moved, 4 * PAGE);
    munmap(first, PAGE);
    munmap(second, PAGE);
    printf("unmapped %c %c\n", byte_at(file, 7 * PAGE), byte_at(file, 3 * PAGE + 9));

    ftruncate(file, 7 * PAGE + 100);
    ftruncate(file, PAGES * PAGE);
    printf("cut off %d %d %c\n", whole[8 * PAGE], whole[7 * PAGE + 100], whole[7 * PAGE]);

    // Copied within the host, and emptied by opening it.
    first = map(file, both, MAP_SHARED, 20);
    first[0] = 's';
    off_t from = 20 * PAGE, to = 21 * PAGE;
    printf("empty %d\n", whole[to]);
    copy_file_range(file, &from, file, &to, 5, 0);
    printf("copied %c\n", whole[21 * PAGE]);
    from = 20 * PAGE, lseek(file, 22 * PAGE, SEEK_SET);
    first[0] = 't';
    printf("sent %d", whole[22 * PAGE]);
    sendfile(file, reader, &from, 5);
    printf(" %c\n", whole[22 * PAGE]);
    char name[40];
    sprintf(name, "/proc/self/fd/%d", file);
    close(open(name, O_WRONLY | O_TRUNC));
    ftruncate(file, PAGES * PAGE);
    printf("emptied %d %d\n", first[0], whole[7 * PAGE]);

    // What is stored goes to its place, also where writes go to the end.
    char appended[] = "/tmp/hydra-mappings-XXXXXX";
    close(mkstemp(appended));
    int append = open(appended, O_RDWR | O_APPEND);
    unlink(appended);
    ftruncate(append, 2 * PAGE);
    first = map(append, both, MAP_SHARED, 0);
    strcpy(first, "in place");
    msync(first, PAGE, MS_SYNC);
    munmap(first, PAGE);
    char place[9] = "";
    pread(append, place, 8, 0);
    printf("%s, %ld bytes\n", place, (long)lseek(append, 0, SEEK_END));

    // One descriptor serves many mappings.
    int made = 0;
    for (int i = 0; i < 5000; i++) made += map(reader, PROT_READ, MAP_SHARED, i % 2 * 3) != 0;
    printf("mappings %d\n", made);
    int memory = memfd_create("m", 0);
    ftruncate(memory, PAGE);
    first = map(memory, both, MAP_SHARED, 0);
    second = map(memory, both, MAP_SHARED, 0);
    strcpy(first, "memory");
    printf("memfd %s\n", second);
    return 0;
}
