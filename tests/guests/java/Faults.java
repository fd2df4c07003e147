import java.util.ArrayList;
import java.util.List;

/** What the JVM does by signals: null checks, divisions, stack overflows, safepoints; and threads that meet them at once. */
public class Faults {
    int field = 3;

    static int read(Faults f) {
        return f.field;
    }

    static int depth;

    static void down() {
        depth++;
        down();
    }

    static int divide(int a, int b) {
        return a / b;
    }

    public static void main(String[] args) throws Exception {
        int nulls = 0, zeros = 0, sum = 0;
        Faults real = new Faults();
        for (int i = 0; i < 60_000; i++) {
            try {
                sum += read(i % 3 == 0 ? null : real);
            } catch (NullPointerException e) {
                nulls++;
            }
            try {
                sum += divide(i, i % 5);
            } catch (ArithmeticException e) {
                zeros++;
            }
        }
        System.out.println(nulls + " " + zeros + " " + sum);
        int overflows = 0;
        for (int i = 0; i < 8; i++) {
            try {
                down();
            } catch (StackOverflowError e) {
                overflows++;
            }
        }
        System.out.println(overflows + " " + (depth > 10_000));
        List<Thread> threads = new ArrayList<>();
        int[] results = new int[8];
        for (int t = 0; t < results.length; t++) {
            int self = t;
            Thread thread = new Thread(null, () -> {
                for (int i = 0; i < 15; i++) {
                    try {
                        deep(0);
                    } catch (StackOverflowError e) {
                        results[self]++;
                    }
                    try {
                        read(null);
                    } catch (NullPointerException e) {
                        results[self]++;
                    }
                }
            }, "faults-" + t, 512 << 10);
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println(java.util.Arrays.toString(results));
        // A counted loop that is stopped at safepoints by the collector.
        long total = 0;
        Thread garbage = new Thread(() -> {
            for (int i = 0; i < 8; i++) {
                System.gc();
            }
        });
        garbage.start();
        for (int i = 0; i < 60_000_000; i++) {
            total += i ^ (total << 1);
        }
        garbage.join();
        System.out.println(total);
        try {
            int[] huge = new int[Integer.MAX_VALUE];
            System.out.println(huge.length);
        } catch (OutOfMemoryError e) {
            System.out.println("out of memory");
        }
        System.exit(sum == 0 ? 1 : 7);
    }

    static int deep(int n) {
        return deep(n + 1) + 1;
    }
}
