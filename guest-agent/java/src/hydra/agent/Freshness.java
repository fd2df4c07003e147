package hydra.agent;

import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;

/**
 * What a program that goes on from a snapshot must not share with the snapshot's other clones: random numbers. The JDK's own generators are
 * seeded; those of {@link java.security.SecureRandom} ask the system anew (for the ones that keep a state see {@link FreshSecureRandom}).
 * A {@link Random} that the function made itself goes on: only the function knows whether it is meant to repeat.
 */
final class Freshness {
    /** Classes with a static {@link AtomicLong} from which new generators are seeded: class, field. */
    private static final String[][] SEEDERS = {
        {"java.util.Random", "seedUniquifier"},
        {"java.util.SplittableRandom", "defaultGen"},
        {"java.util.concurrent.ThreadLocalRandom", "seeder"},
    };
    /** The same for what {@link java.util.random.RandomGenerator#of} makes; in classes that are not loaded if nobody has asked it. */
    private static final String[][] FURTHER_SEEDERS = {
        {"jdk.random.L128X1024MixRandom", "defaultGen"},
        {"jdk.random.L128X128MixRandom", "defaultGen"},
        {"jdk.random.L128X256MixRandom", "defaultGen"},
        {"jdk.random.L32X64MixRandom", "defaultGen"},
        {"jdk.random.L64X1024MixRandom", "defaultGen"},
        {"jdk.random.L64X128MixRandom", "defaultGen"},
        {"jdk.random.L64X128StarStarRandom", "defaultGen"},
        {"jdk.random.L64X256MixRandom", "defaultGen"},
        {"jdk.random.Xoroshiro128PlusPlus", "defaultGen"},
        {"jdk.random.Xoshiro256PlusPlus", "defaultGen"},
    };
    /** Classes with a static {@link Random}: class, field. */
    private static final String[][] GENERATORS = {
        {"java.lang.Math$RandomNumberGeneratorHolder", "randomNumberGenerator"},
        {"java.lang.StrictMath$RandomNumberGeneratorHolder", "randomNumberGenerator"},
        {"java.util.Collections", "r"},
    };
    /** Classes with a static buffer of system randomness: class, field, which holds an object with the number of bytes left in it. */
    private static final String[][] BUFFERS = {
        {"sun.security.provider.NativePRNG", "INSTANCE"},
        {"sun.security.provider.NativePRNG$Blocking", "INSTANCE"},
        {"sun.security.provider.NativePRNG$NonBlocking", "INSTANCE"},
    };
    private static final long SEED_OF_THREAD = Internals.offset(Thread.class, "threadLocalRandomSeed");
    private static final long PROBE_OF_THREAD = Internals.offset(Thread.class, "threadLocalRandomProbe");

    private static volatile int restores;
    private static List<AtomicLong> seeders = List.of();
    private static List<Random> generators = List.of();
    private static List<Object> buffers = List.of();

    private Freshness() {}

    /** How often the program went on from a snapshot. */
    static int restores() {
        return restores;
    }

    /** Finds what there is to seed, so that no clone has to. */
    static void prepare() {
        seeders = values(SEEDERS, AtomicLong.class);
        if (Internals.isInitialised(java.util.random.RandomGeneratorFactory.class)) {
            seeders.addAll(values(FURTHER_SEEDERS, AtomicLong.class));
        }
        generators = values(GENERATORS, Random.class);
        buffers = values(BUFFERS, Object.class);
    }

    /** Seeds everything with {@code entropy}, 64 hexadecimal digits that no other clone has. */
    static void reseed(String entropy) {
        byte[] bytes = HexFormat.of().parseHex(entropy);
        long[] seed = new long[bytes.length / Long.BYTES];
        for (int i = 0; i < bytes.length / Long.BYTES * Long.BYTES; i++) {
            seed[i / Long.BYTES] = seed[i / Long.BYTES] << 8 | bytes[i] & 0xff;
        }
        Seeds seeds = new Seeds(seed);
        restores++;
        for (AtomicLong seeder : seeders) {
            seeder.set(seeds.next());
        }
        for (Random generator : generators) {
            generator.setSeed(seeds.next());
        }
        for (Object buffer : buffers) {
            long left = Internals.offset(buffer.getClass(), "buffered");
            if (left >= 0) {
                Internals.UNSAFE.putInt(buffer, left, 0);
            }
        }
        for (Thread thread : threads()) {
            // One that has not used its generator is seeded when it does.
            if (thread != null && SEED_OF_THREAD >= 0 && Internals.UNSAFE.getInt(thread, PROBE_OF_THREAD) != 0) {
                Internals.UNSAFE.putLong(thread, SEED_OF_THREAD, seeds.next());
            }
        }
    }

    private static <T> List<T> values(String[][] places, Class<T> type) {
        List<T> values = new ArrayList<>();
        for (String[] place : places) {
            Object value = Internals.staticValue(Internals.find(place[0]), place[1]);
            if (type.isInstance(value)) {
                values.add(type.cast(value));
            }
        }
        return values;
    }

    /** All platform threads; some of the array may be null. */
    private static Thread[] threads() {
        ThreadGroup top = Thread.currentThread().getThreadGroup();
        while (top.getParent() != null) {
            top = top.getParent();
        }
        Thread[] threads;
        int count;
        do {
            threads = new Thread[top.activeCount() + 16];
            count = top.enumerate(threads);
        } while (count == threads.length);
        return threads;
    }

    /** A sequence of numbers from the words of a seed (the finaliser of SplitMix64, by Steele, Lea and Flood). */
    private static final class Seeds {
        private final long[] words;
        private int count;

        Seeds(long[] words) {
            this.words = words;
        }

        long next() {
            long mixed = 0;
            for (long word : words) {
                mixed = mix(mixed ^ word) + ++count * 0x9e3779b97f4a7c15L;
            }
            return mix(mixed);
        }

        private static long mix(long z) {
            z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L;
            z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL;
            return z ^ (z >>> 31);
        }
    }
}
