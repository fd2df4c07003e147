import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.concurrent.locks.*;
import java.util.stream.*;

/** Threads that wait for each other in every way the library has. */
public class Threads {
    static class Sum extends RecursiveTask<Long> {
        final int from, to;

        Sum(int from, int to) {
            this.from = from;
            this.to = to;
        }

        @Override
        protected Long compute() {
            if (to - from < 1000) {
                return IntStream.range(from, to).asLongStream().sum();
            }
            int middle = (from + to) >>> 1;
            Sum left = new Sum(from, middle), right = new Sum(middle, to);
            left.fork();
            return right.compute() + left.join();
        }
    }

    public static void main(String[] args) throws Exception {
        System.out.println(new ForkJoinPool(4).invoke(new Sum(0, 2_000_000)));
        System.out.println(IntStream.range(0, 1_000_000).parallel().filter(i -> i % 7 == 0).count());

        ExecutorService pool = Executors.newFixedThreadPool(16);
        AtomicInteger counter = new AtomicInteger();
        LongAdder adder = new LongAdder();
        List<Future<Integer>> futures = new ArrayList<>();
        for (int i = 0; i < 500; i++) {
            int n = i;
            futures.add(pool.submit(() -> {
                adder.add(n);
                Thread.sleep(n % 3);
                return counter.incrementAndGet() > 0 ? n : -1;
            }));
        }
        int sum = 0;
        for (Future<Integer> future : futures) {
            sum += future.get();
        }
        System.out.println(sum + " " + counter + " " + adder);
        pool.shutdown();
        System.out.println(pool.awaitTermination(10, TimeUnit.SECONDS));

        Object monitor = new Object();
        int[] turn = {0};
        Thread[] ring = new Thread[5];
        for (int t = 0; t < ring.length; t++) {
            int self = t;
            ring[t] = new Thread(() -> {
                for (int round = 0; round < 200; round++) {
                    synchronized (monitor) {
                        while (turn[0] % ring.length != self) {
                            try {
                                monitor.wait();
                            } catch (InterruptedException e) {
                                return;
                            }
                        }
                        turn[0]++;
                        monitor.notifyAll();
                    }
                }
            });
            ring[t].start();
        }
        for (Thread thread : ring) {
            thread.join();
        }
        System.out.println(turn[0]);

        ReentrantLock lock = new ReentrantLock(true);
        Condition filled = lock.newCondition();
        Deque<Integer> queue = new ArrayDeque<>();
        Thread consumer = new Thread(() -> {
            long got = 0;
            for (int i = 0; i < 3000; i++) {
                lock.lock();
                try {
                    while (queue.isEmpty()) {
                        filled.awaitUninterruptibly();
                    }
                    got += queue.poll();
                } finally {
                    lock.unlock();
                }
            }
            System.out.println(got);
        });
        consumer.start();
        for (int i = 0; i < 3000; i++) {
            lock.lock();
            queue.add(i);
            filled.signal();
            lock.unlock();
        }
        consumer.join();

        CyclicBarrier barrier = new CyclicBarrier(6);
        Phaser phaser = new Phaser(6);
        Semaphore permits = new Semaphore(2);
        AtomicInteger most = new AtomicInteger(), inside = new AtomicInteger();
        Thread[] party = new Thread[6];
        for (int t = 0; t < party.length; t++) {
            party[t] = new Thread(() -> {
                try {
                    for (int i = 0; i < 50; i++) {
                        barrier.await();
                        permits.acquire();
                        most.accumulateAndGet(inside.incrementAndGet(), Math::max);
                        inside.decrementAndGet();
                        permits.release();
                        phaser.arriveAndAwaitAdvance();
                    }
                } catch (Exception e) {
                    System.out.println(e);
                }
            });
            party[t].start();
        }
        for (Thread thread : party) {
            thread.join();
        }
        System.out.println((most.get() <= 2) + " " + phaser.getPhase());

        ScheduledExecutorService timer = Executors.newScheduledThreadPool(2);
        CountDownLatch ticks = new CountDownLatch(10);
        timer.scheduleAtFixedRate(ticks::countDown, 1, 2, TimeUnit.MILLISECONDS);
        System.out.println(ticks.await(10, TimeUnit.SECONDS));
        timer.shutdownNow();

        Thread sleeper = new Thread(() -> {
            try {
                Thread.sleep(100_000);
            } catch (InterruptedException e) {
                System.out.println("interrupted");
            }
        });
        sleeper.start();
        sleeper.interrupt();
        sleeper.join();
        Thread parked = new Thread(LockSupport::park);
        parked.start();
        LockSupport.unpark(parked);
        parked.join();

        Thread[] many = new Thread[300];
        CountDownLatch all = new CountDownLatch(many.length);
        for (int i = 0; i < many.length; i++) {
            many[i] = new Thread(null, () -> {
                all.countDown();
                try {
                    all.await();
                } catch (InterruptedException e) {
                    System.out.println(e);
                }
            }, "many", 128 << 10);
            many[i].start();
        }
        for (Thread thread : many) {
            thread.join();
        }
        ThreadLocal<Integer> local = ThreadLocal.withInitial(() -> 5);
        System.out.println(all.getCount() + " " + local.get() + " " + CompletableFuture.supplyAsync(() -> 20).thenCombineAsync(CompletableFuture.supplyAsync(() -> 22), Integer::sum).get());
    }
}
