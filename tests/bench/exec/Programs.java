import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HashMap;
import java.util.Map;

/** The Java programs of {@code hydra bench exec}: Programs NAME FOLDER TIMES runs one so many times, and prints the last one's
 * seconds and result. */
public final class Programs {
    private Programs() {}

    public static void main(String[] arguments) {
        int times = arguments.length < 3 ? 1 : Integer.parseInt(arguments[2]);
        double seconds = 0;
        long result = 0;
        for (int i = 0; i < times; i++) {
            long start = System.nanoTime();
            result = run(arguments[0]);
            seconds = (System.nanoTime() - start) / 1e9;
        }
        System.out.println("{\"seconds\": " + seconds + ", \"result\": \"" + result + "\"}");
    }

    private static long run(String name) {
        return switch (name) {
            case "nothing" -> 0;
            case "sieve" -> sieve();
            case "objects" -> objects();
            case "nbody" -> nbody();
            case "sha256" -> sha256();
            case "threads" -> threads();
            default -> throw new IllegalArgumentException(name);
        };
    }

    private static long sieve() {
        int limit = 3_000_000;
        long count = 0;
        for (int round = 0; round < 12; round++) {
            boolean[] composite = new boolean[limit];
            for (int i = 2; i < limit; i++) {
                if (composite[i]) {
                    continue;
                }
                count++;
                for (long j = 2L * i; j < limit; j += i) {
                    composite[(int) j] = true;
                }
            }
        }
        return count;
    }

    /** Two bodies and a sun, by the leapfrog method. */
    private static long nbody() {
        double[] x = {0, 1, 1.52}, y = {0, 0, 0}, vx = {0, 0, 0}, vy = {0, 6.28, 5.1}, mass = {39.5, 1e-4, 1e-5};
        for (int step = 0; step < 6_000_000; step++) {
            for (int i = 0; i < 3; i++) {
                for (int j = 0; j < 3; j++) {
                    if (i != j) {
                        double dx = x[j] - x[i], dy = y[j] - y[i], distance = dx * dx + dy * dy;
                        double pull = mass[j] / (distance * Math.sqrt(distance)) * 1e-4;
                        vx[i] += dx * pull;
                        vy[i] += dy * pull;
                    }
                }
            }
            for (int i = 0; i < 3; i++) {
                x[i] += vx[i] * 1e-4;
                y[i] += vy[i] * 1e-4;
            }
        }
        return Double.doubleToLongBits(x[1]);
    }

    private static long sha256() {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            byte[] block = new byte[1 << 20];
            for (int i = 0; i < 100; i++) {
                digest.update(block);
            }
            return ByteBuffer.wrap(digest.digest()).getLong();
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private static long threads() {
        try {
            long[] sums = new long[2];
            Thread[] threads = new Thread[sums.length];
            for (int t = 0; t < threads.length; t++) {
                int self = t;
                threads[t] = new Thread(() -> sums[self] = sieve());
                threads[t].start();
            }
            for (Thread thread : threads) {
                thread.join();
            }
            return sums[0] + sums[1];
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private record Value(int number, int[] next) {}

    private static long objects() {
        long total = 0;
        for (int i = 0; i < 300; i++) {
            Map<String, Value> map = new HashMap<>();
            for (int j = 0; j < 5000; j++) {
                map.put("k" + j, new Value(j, new int[] {j, j + 1}));
            }
            for (Value value : map.values()) {
                total += value.number() + value.next()[1];
            }
        }
        return total;
    }
}
