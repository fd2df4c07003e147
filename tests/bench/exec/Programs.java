import java.util.HashMap;
import java.util.Map;

/** The Java programs of {@code hydra bench exec}: Programs NAME FOLDER runs one and prints its seconds and its result. */
public final class Programs {
    private Programs() {}

    public static void main(String[] arguments) {
        long start = System.nanoTime();
        long result = switch (arguments[0]) {
            case "nothing" -> 0;
            case "sieve" -> sieve();
            case "objects" -> objects();
            default -> throw new IllegalArgumentException(arguments[0]);
        };
        double seconds = (System.nanoTime() - start) / 1e9;
        System.out.println("{\"seconds\": " + seconds + ", \"result\": \"" + result + "\"}");
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
