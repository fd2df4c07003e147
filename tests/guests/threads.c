// Threads: mutexes, condition variables, thread-local storage, cancellation, barriers, more threads than processors.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 40, ROUNDS = 500 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t slots;
static long total;
static int turn;
static __thread long own;

static void *work(void *number) {
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < ROUNDS; i++) {
        own += (long)number;
        pthread_mutex_lock(&lock);
        total += 1;
        pthread_mutex_unlock(&lock);
    }
    sem_wait(&slots);
    sem_post(&slots);
    return (void *)own;
}

static void *ping(void *which) {
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        while (turn != (int)(long)which) pthread_cond_wait(&turn_changed, &lock);
        turn = !turn;
        pthread_cond_signal(&turn_changed);
        pthread_mutex_unlock(&lock);
    }
    return 0;
}

static void *sleeper(void *unused) {
    (void)unused;
    for (;;) pause();
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, 0, THREADS);
    sem_init(&slots, 0, 3);
    long sum = 0;
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, work, (void *)i);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("counted %ld, thread-local %ld\n", total, sum);

    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, ping, (void *)i);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    printf("turn %d\n", turn);

    pthread_create(&threads[0], 0, sleeper, 0);
    pthread_cancel(threads[0]);
    void *result;
    pthread_join(threads[0], &result);
    printf("cancelled %d\n", result == PTHREAD_CANCELED);

    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 20000000;
    soon.tv_sec += soon.tv_nsec / 1000000000;
    soon.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    printf("timed out %d\n", pthread_cond_timedwait(&turn_changed, &lock, &soon) == ETIMEDOUT);
    pthread_mutex_unlock(&lock);

    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t orphan;
    pthread_mutex_init(&orphan, &robust);
    pthread_create(&threads[0], 0, (void *(*)(void *))pthread_mutex_lock, &orphan);
    pthread_join(threads[0], 0);
    printf("owner died %d\n", pthread_mutex_lock(&orphan) == EOWNERDEAD);
    return 5;
}
