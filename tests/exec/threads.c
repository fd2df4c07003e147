/* Threads, futexes, thread-local storage, a signal handler on an alternate stack, and floating point kept across both. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS = 8, ROUNDS = 2000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static long counter, arrived;
static __thread double local;
static sigjmp_buf back;
static volatile void *faulted;

static void *work(void *argument)
{
    local = (double)(long)argument;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
        local = local * 1.0000001 + 0.5;
    }
    pthread_mutex_lock(&mutex);
    arrived++;
    pthread_cond_broadcast(&turn);
    while (arrived < THREADS)
        pthread_cond_wait(&turn, &mutex);
    pthread_mutex_unlock(&mutex);
    double *result = malloc(sizeof *result);
    *result = local;
    return result;
}

static void fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    faulted = info->si_addr;
    siglongjmp(back, number * 10 + info->si_code);
}

int main(void)
{
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i))
            return 1;
    double sum = 0;
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += *(double *)result;
        free(result);
    }
    printf("%ld %.6f\n", counter, sum);

    static char stack[65536];
    stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction action = { .sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigaltstack(&alternate, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(page, 1, 8192);
    mprotect(page + 4096, 4096, PROT_READ);
    int got = sigsetjmp(back, 1);
    if (!got)
        page[4096] = 2;
    printf("write to a read-only page: %d at %ld, still %d\n", got, (long)((char *)faulted - page), page[4096]);
    munmap(page, 4096);
    got = sigsetjmp(back, 1);
    if (!got)
        page[0] = 2;
    printf("write to no page: %d at %ld\n", got, (long)((char *)faulted - page));
    volatile int zero = 0;
    got = sigsetjmp(back, 1);
    if (!got)
        zero = 1 / zero;
    printf("division by zero: %d\n", got);
    return 42;
}
