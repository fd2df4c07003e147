package hydra.agent;

import java.util.HexFormat;
import org.crac.Core;

/** Makes the program ready for a checkpoint, and its own again when it goes on from one. */
final class Checkpoint {
    private Checkpoint() {}

    /** Calls the hooks of {@code function} (null: there is none), and makes the program small. */
    static void before(Function function) throws Throwable {
        Core.getGlobalContext().beforeCheckpoint(null);
        if (function != null) {
            function.beforeCheckpoint();
        }
        Freshness.prepare();
        // Not for its effect: no clone is to be the first to run it.
        Freshness.reseed(HexFormat.of().formatHex(Descriptors.systemRandom(Long.BYTES * 4)));
        Heap.shrink();
    }

    /** Seeds everything with {@code entropy}, and calls the hooks. */
    static void after(Function function, String entropy) throws Throwable {
        Freshness.reseed(entropy);
        if (function != null) {
            function.afterRestore();
        }
        Core.getGlobalContext().afterRestore(null);
    }
}
