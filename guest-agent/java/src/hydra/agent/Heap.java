package hydra.agent;

import java.util.ArrayList;
import java.util.List;

/** The JVM's heap, as a checkpoint sees it: every page that is not zero costs. */
final class Heap {
    private static final int PIECE = 64 << 10;

    private Heap() {}

    /**
     * Collects garbage, and fills what is free with zeros: a collection leaves it as it was. The second one gives the memory beyond
     * what is needed back to the system.
     */
    static void shrink() {
        System.gc();
        List<byte[]> zeros = new ArrayList<>();
        long free = Runtime.getRuntime().freeMemory();
        try {
            for (long filled = 0; filled < free - 2 * PIECE; filled += PIECE) {
                zeros.add(new byte[PIECE]);
            }
        } catch (OutOfMemoryError full) {
            // All the better.
        }
        zeros = null;
        System.gc();
    }
}
